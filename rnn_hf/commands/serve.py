"""Serve a model by an OpenAI-compatible interface: completions, whole and streaming.

    rnn-hf serve MODEL [--host 127.0.0.1] [--port 8000] [--max_tokens_limit 4096] [--time_limit 60]

Requests name a directory by its last part. There is no access control.
"""

from argparse import Namespace
from collections.abc import Sequence

from rnn_hf.commands import Parser, add_device_flag


def parse(argv: Sequence[str] | None = None) -> Namespace:
    parser = Parser(__doc__, "serve")
    parser.add_argument("model", metavar="MODEL", help="directory, or name on the Hub, or NAME@REVISION")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets the network in")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--max_tokens_limit", type=int, default=4096, help="tokens of prompt and completion together")
    parser.add_argument("--time_limit", type=float, default=60.0, help="seconds after which a generation is cut")
    parser.add_argument("--with_unknown", action="store_true", help="let the token for unknown words be generated")
    add_device_flag(parser)
    return parser.parse_args(argv)


def run(arguments: Namespace) -> int:
    from transformers.utils.logging import disable_progress_bar

    from rnn_hf.serving.server import serve

    disable_progress_bar()
    serve(
        arguments.model, arguments.host, arguments.port, arguments.max_tokens_limit, arguments.time_limit,
        arguments.with_unknown, arguments.device,
    )  # fmt: skip
    return 0
