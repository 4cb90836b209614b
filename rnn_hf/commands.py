"""What commands share: a flag, and how they end. A user's mistake is one line, a bug has its traceback."""

import io
import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from typing import NoReturn

import torch

from rnn_hf.loading import DEVICES


def add_device_flag(parser: ArgumentParser) -> None:
    """The flag `--device`, whose value `rnn_hf.loading.load_model` takes."""
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: a GPU where there is one")


def run_command(main: Callable[[], int]) -> NoReturn:
    """Run the `main` of a command and exit with its code: a user's mistake is one line and code 2.

    What a console cannot show is printed as `\\u2581`, and the command ends without a word when its reader, such as
    `head`, has seen enough. A GPU computes float32 in full.
    """
    # cuDNN would round the factors of float32 products to TF32. Training sets this by its own flag.
    torch.backends.cudnn.allow_tf32 = False
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more on its way out, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        sys.stderr.write(f"error: {error}\n")
        code = 2
    sys.exit(code)
