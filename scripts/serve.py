"""Serve a model by an OpenAI-compatible interface: completions, whole and streaming.

    python scripts/serve.py MODEL [--host 127.0.0.1] [--port 8000] [--max_tokens_limit 4096] [--time_limit 60]

MODEL is a directory, which requests name by its last part, or a name on the Hub. There is no access control.
"""

from argparse import ArgumentParser

from transformers.utils.logging import disable_progress_bar

from rnn_hf.commands import add_device_flag, run_command
from rnn_hf.serving.server import serve


def main() -> int:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="directory or name on the Hub; NAME@REVISION for a branch, tag or commit")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets the network in")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--max_tokens_limit", type=int, default=4096, help="tokens of prompt and completion together")
    parser.add_argument("--time_limit", type=float, default=60.0, help="seconds after which a generation is cut")
    parser.add_argument("--with_unknown", action="store_true", help="let the token for unknown words be generated")
    add_device_flag(parser)
    arguments = parser.parse_args()
    disable_progress_bar()
    serve(
        arguments.model, arguments.host, arguments.port, arguments.max_tokens_limit, arguments.time_limit,
        arguments.with_unknown, arguments.device,
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    run_command(main)
