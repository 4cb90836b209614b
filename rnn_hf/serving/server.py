"""Serve a model: load it, see that it generates as requests will have it, listen, and end when told to."""

import ipaddress
import logging
import math
import signal
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer
from transformers.utils.import_utils import is_serve_available
from transformers.utils.logging import set_verbosity_error

from rnn_hf.data.tokenization import start_id, unknown_id, vocab_size_of
from rnn_hf.errors import InputError, MissingPackageError
from rnn_hf.loading import check_reads_forward, config_of, device_of
from rnn_hf.models import HEADS
from rnn_hf.serving.answers import Writer, end_ids
from rnn_hf.serving.application import application, protocol
from rnn_hf.serving.requests import Request, Served


CLOSING_SECONDS = 5  # beyond the time limit, after which what still runs when the server ends is cut

logger = logging.getLogger("uvicorn.error")


def serve(
    name: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    max_tokens_limit: int = 4096,
    time_limit: float = 60.0,
    with_unknown: bool = False,
    device: str = "auto",
) -> None:
    """Serve a model until SIGINT or SIGTERM, which ends the process with 0 when all that was begun is answered.

    What takes longer than the time limit and a few seconds from the signal on is cut.

    Args:
        name: Directory of a causal model of this package, or its name on the Hub, which `@` and a revision may follow.
        host: Address to listen on. There is no access control: another than this machine's own lets the network in.
        port: Port to listen on; 0 takes a free one.
        max_tokens_limit: Tokens of prompt and completion together, above which a request is refused.
        time_limit: Seconds after which a generation is cut; the time before its turn does not count.
        with_unknown: Whether the word for unknown words may be generated.
        device: One of `rnn_hf.loading.DEVICES`.

    Raises:
        MissingPackageError: A package of the extra is missing.
        InputError: An argument makes no sense, or the model does not load or cannot be served.
        OSError: Host and port cannot be listened on.
    """
    if not 0 <= port < 2**16:
        raise InputError(f"`port` must be from 0 to 65535, got {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # Before the model is loaded, so that a port in use is said at once.
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise OSError(f"cannot listen on `host` {host}, `port` {port}: {error.strerror}") from error
    with listening:
        set_verbosity_error()  # a request is no reason for a warning
        address, port = listening.getsockname()[:2]
        server = build_server(name, max_tokens_limit, time_limit, with_unknown, hosts_of(host, address), device)
        address = f"[{host}]" if ":" in host else host
        logger.info("%s is on http://%s:%d/v1 (Ctrl-C ends it)", name_of(name), address, port)
        for number in (signal.SIGINT, signal.SIGTERM):
            # Once all is answered uvicorn sends itself the signal again, which would kill the process.
            signal.signal(number, lambda *_: sys.exit(0))
        server.run(sockets=[listening])


def build_server(
    name: str,
    max_tokens_limit: int = 4096,
    time_limit: float = 60.0,
    with_unknown: bool = False,
    hosts: set[str] | None = None,
    device: str = "auto",
) -> Any:
    """The server of `serve` with its model loaded, as a `uvicorn.Server` that is to be run.

    Args:
        name, max_tokens_limit, time_limit, with_unknown, device: See `serve`.
        hosts: Names of this machine that requests may be for, without the port; `None` is any.
    """
    if not is_serve_available():
        raise MissingPackageError("a server needs fastapi, openai and uvicorn: pip install 'rnn_hf[serving]'")
    if max_tokens_limit < 2:
        raise InputError(f"`max_tokens_limit` must be at least 2, a prompt and a new token; got {max_tokens_limit}")
    if not 0 < time_limit < math.inf:
        raise InputError(f"`time_limit` must be above 0 seconds, got {time_limit}")
    import uvicorn

    served = load(name, max_tokens_limit, time_limit, with_unknown, device)
    # Without it uvicorn waits for as long as somebody is connected.
    closing = math.ceil(time_limit) + CLOSING_SECONDS
    app = application(served, hosts)
    return uvicorn.Server(
        uvicorn.Config(app, http=protocol(), ws="none", log_level="info", timeout_graceful_shutdown=closing)
    )


def hosts_of(host: str, address: str) -> set[str] | None:
    """What requests may give as the name of a server that listens on `host`, which is `address`; `None` is anything.

    A page that a browser shows may have its own name lead to 127.0.0.1, and would then read the answers.
    """
    if not ipaddress.ip_address(address).is_loopback:
        return None
    return {"localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host else host.lower()}


def name_of(name: str) -> str:
    """The name by which clients know a model: of a directory the last part, since the rest is nobody's business."""
    return Path(name).resolve().name if Path(name).is_dir() else name


def load(name: str, max_tokens_limit: int, time_limit: float, with_unknown: bool, device: str) -> Served:
    """A model and its tokenizer, seen to generate as requests will ask for it; arguments and errors as of `serve`."""
    target = device_of(device)
    repository, _, revision = (name, "", "") if Path(name).is_dir() else name.partition("@")
    config = config_of(repository, revision or None)
    try:
        (architecture,) = config.architectures or ["RNNForCausalLM"]
        kind = HEADS["AutoModelForCausalLM"]
        if architecture != kind.__name__:
            raise InputError(f"it is a {architecture}, and no causal language model of this package")
        model = kind.from_pretrained(repository, revision=revision or None).eval()
        check_reads_forward(model, "a server")
        tokenizer = AutoTokenizer.from_pretrained(repository, revision=revision or None)
        if getattr(tokenizer, "backend_tokenizer", None) is None or start_id(tokenizer) is None:
            raise InputError("its tokenizer must be a fast one, with an end token")
        if vocab_size_of(tokenizer) > model.config.vocab_size:
            raise InputError(
                f"its tokenizer has ids up to {vocab_size_of(tokenizer) - 1}, and it knows {model.config.vocab_size}"
            )
        own = model.generation_config
        stops = [own.stop_strings] if isinstance(own.stop_strings, str) else list(own.stop_strings or [])
        own.stop_strings, own.num_return_sequences = None, 1
        unknown = unknown_id(tokenizer)
        if not with_unknown and unknown is not None and unknown not in end_ids(own):
            own.bad_words_ids = [*(own.bad_words_ids or []), [unknown]]
        served = Served(
            name_of(name), model.to(target), tokenizer,
            str(tokenizer.convert_ids_to_tokens(start_id(tokenizer))), stops,
            max_tokens_limit, time_limit, ThreadPoolExecutor(1, "generation"),
        )  # fmt: skip
        try_out(served, start_id(tokenizer))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"cannot serve the model {name}: {reason}") from error
    return served


def try_out(served: Served, start: int) -> None:
    """Generate two tokens, so that what a generation config asks for and a server lacks is said at once.

    Raises:
        InputError: It asks for such a thing.
    """
    for do_sample in (False, True):
        request = Request(torch.tensor([[start]], device="cpu"), {"do_sample": do_sample, "max_new_tokens": 2}, [])
        try:
            Writer(served, request, lambda text: None, threading.Event()).generate()
        except ValueError as error:
            raise InputError(
                f"its generation_config.json asks for what a server, which writes token by token, cannot do: {error}"
            ) from error
