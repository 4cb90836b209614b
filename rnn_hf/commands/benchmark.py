"""Latency of a token of your own model: median and 95th percentile, in PyTorch and in ONNX Runtime.

    rnn-hf benchmark MODEL [--onnx FOLDER] [--batch_size 1 32] [--tokens 200] [--json FILE]

FOLDER is what `rnn-hf export` wrote of the model; its file in 8 bits is measured too, where there is one.
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rnn_hf.commands import Parser, add_device_flag, add_model_argument, check_file
from rnn_hf.errors import InputError
from rnn_hf.onnx import INT8_FILE, MODEL_FILE


def parse(argv: Sequence[str] | None = None) -> Namespace:
    parser = Parser(__doc__, "benchmark")
    add_model_argument(parser)
    parser.add_argument("--onnx", metavar="FOLDER", help="an export of the model, to measure too")
    parser.add_argument("--batch_size", type=int, nargs="+", default=[1, 32], help="texts that are written together")
    parser.add_argument("--tokens", type=int, default=200, help="tokens of each text")
    parser.add_argument("--json", metavar="FILE", help="also write the rows to this file, after each of them")
    add_device_flag(parser)
    return parser.parse_args(argv)


def run(arguments: Namespace) -> int:
    from transformers.utils.logging import disable_progress_bar

    from rnn_hf.files import write_json
    from rnn_hf.latency import measure
    from rnn_hf.loading import check_reads_forward, load_model
    from rnn_hf.onnx.model import RNNONNXForCausalLM

    if arguments.tokens < 16 or min(arguments.batch_size) < 1:
        raise InputError("--tokens must be at least 16, and --batch_size at least 1")
    check_file("json", arguments.json)
    disable_progress_bar()
    model, _ = load_model(arguments.model, device=arguments.device)
    check_reads_forward(model, "measuring tokens as they are written")
    models: dict[str, Any] = {f"PyTorch, {model.device}": model}
    if arguments.onnx:
        names = {MODEL_FILE: "ONNX Runtime", INT8_FILE: "ONNX Runtime, int8"}
        for file, name in names.items():
            if file == MODEL_FILE or (Path(arguments.onnx) / file).is_file():
                models[name] = RNNONNXForCausalLM.from_pretrained(arguments.onnx, file_name=file)
    rows: list[dict[str, Any]] = []
    print(f"{'runtime':<20} batch    p50 ms    p95 ms  tokens/s")
    for row in measure(models, arguments.batch_size, arguments.tokens):
        rows.append(row)
        print(f"{row['runtime']:<20} {row['batch_size']:>5} {row['p50_ms']:>9.3f} {row['p95_ms']:>9.3f} "
              f"{row['tokens_per_second']:>9,}", flush=True)  # fmt: skip
        if arguments.json:
            write_json(Path(arguments.json), {"model": arguments.model, "tokens": arguments.tokens, "rows": rows})
    return 0
