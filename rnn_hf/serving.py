"""An OpenAI-compatible server of one model: transformers' own `serve`, with checks and limits around it."""

import json
import logging
import math
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any

import torch
import transformers
from transformers import AutoConfig
from transformers.cli.serve import Serve
from transformers.generation import MaxTimeCriteria, StoppingCriteria
from transformers.utils.import_utils import is_serve_available

from rnn_hf import models


# What transformers' server has beside these loads, drops or needs other models.
SERVED = ("/v1/completions", "/v1/models", "/health")
NOT_SERVED = (
    "no such address or method: this server has POST /v1/completions, GET /v1/models and GET /health; no chat, for "
    "which models of this package have no template"
)
DEFAULT_MAX_TOKENS = 16  # of the API


def is_text(value: Any) -> bool:
    """Whether a value is text that a tokenizer takes: half of a pair of surrogates is none."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def are_stops(value: str | list) -> bool:
    """Whether these are texts to stop at."""
    texts = [value] if isinstance(value, str) else value
    return 1 <= len(texts) <= 4 and all(is_text(text) and text for text in texts)


Rule = tuple[type | UnionType, Callable[[Any], bool], str]

# What a field may hold: its type, a condition on it, and both in words.
RULES: dict[str, Rule] = {
    "prompt": (str, is_text, "one text (several are several requests; token ids are not taken)"),
    "max_tokens": (int, lambda number: number >= 1, "a whole number of at least 1"),
    "temperature": (int | float, lambda t: t == 0 or 0.01 <= t <= 2, "0 for greedy search, or from 0.01 to 2"),
    "top_p": (int | float, lambda number: 0 <= number <= 1, "a number from 0 to 1"),
    "frequency_penalty": (int | float, lambda number: -1 < number <= 2, "a number above -1 and at most 2"),
    "seed": (int, lambda number: 0 <= number < 2**63, "a whole number from 0 to 2**63 - 1"),
    "stop": (str | list, are_stops, "a text or a list of one to four texts, none of them empty"),
    "stream": (bool, lambda value: True, "true or false"),
}
# Fields that transformers takes and leaves out of account: refused, but at the value that changes nothing.
NEUTRAL: dict[str, Any] = {
    "best_of": 1, "echo": False, "logit_bias": {}, "logprobs": None, "n": 1, "presence_penalty": 0, "suffix": "",
}  # fmt: skip
WITHOUT_EFFECT = {"stream_options", "user"}  # the last piece of a stream says the usage in any case


class BadRequest(ValueError):
    """A request that is refused; the message names the field."""

    def __init__(self, message: str, field: str | None = None, status: int = 400):
        super().__init__(message)
        self.field, self.status = field, status


class TimeLimit(MaxTimeCriteria):
    """Ends a generation after so many seconds, which the client is told as the reason "length".

    The server says "length" where as many tokens came as were allowed, so what came becomes what was allowed.
    """

    def __init__(self, seconds: float, generation_config: Any, prompt_tokens: int):
        super().__init__(max_time=seconds)
        self.generation_config, self.prompt_tokens = generation_config, prompt_tokens

    def __call__(self, input_ids, scores, **kwargs):
        is_over = super().__call__(input_ids, scores, **kwargs)
        if is_over.all():
            self.generation_config.max_new_tokens = input_ids.shape[1] - self.prompt_tokens
        return is_over


class StopTexts(StoppingCriteria):
    """Ends a generation after one of some texts.

    transformers' own criterion reads a tokenizer by a word of its choice, and fails where that is unknown.
    """

    def __init__(self, texts: list[str], tokenizer: Any, prompt_tokens: int):
        self.texts, self.tokenizer, self.prompt_tokens = texts, tokenizer, prompt_tokens
        self.tail = 4 * max(map(len, texts)) + 1  # tokens: a character may be four, a byte each

    def __call__(self, input_ids, scores, **kwargs):
        completion = input_ids[0, self.prompt_tokens :]
        text = self.tokenizer.decode(completion[-self.tail :], skip_special_tokens=True)
        is_over = any(stop in text for stop in self.texts)
        return torch.full((len(input_ids),), is_over, dtype=torch.bool, device=input_ids.device)


def serve(
    name: str, host: str = "127.0.0.1", port: int = 8000, max_tokens_limit: int = 4096, time_limit: float = 60.0
) -> None:
    """Serve a model until SIGINT or SIGTERM, which ends the process with 0 when all that was begun is answered.

    Args:
        name: Directory of a causal model of this package, or its name on the Hub, which `@` and a revision may follow.
        host: Address to listen on. There is no access control: another than this machine's own lets the network in.
        port: Port to listen on; 0 takes a free one.
        max_tokens_limit: Tokens of prompt and completion together, above which a request is refused.
        time_limit: Seconds after which a generation is cut; the time before its turn does not count.

    Raises:
        ImportError: A package of the extra is missing.
        ValueError: An argument makes no sense, or the model does not load.
        OSError: Host and port cannot be listened on.
    """
    if not 0 <= port < 2**16:
        raise ValueError(f"--port must be from 0 to 65535, got {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # Before the model is loaded, so that a port in use is said at once.
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise OSError(f"cannot listen on --host {host} --port {port}: {error.strerror}") from error
    with listening:
        server = build_server(name, max_tokens_limit, time_limit)
        port = listening.getsockname()[1]
        address = f"[{host}]" if ":" in host else host
        logging.getLogger("uvicorn.error").info("%s is on http://%s:%d/v1 (Ctrl-C ends it)", name, address, port)
        for number in (signal.SIGINT, signal.SIGTERM):
            # Once all is answered uvicorn sends itself the signal anew, which would kill the process.
            signal.signal(number, lambda *_: sys.exit(0))
        server.run(sockets=[listening])


def build_server(name: str, max_tokens_limit: int = 4096, time_limit: float = 60.0) -> Any:
    """The server of `serve` with its model loaded, as a `uvicorn.Server` that is to be run.

    transformers' `serve` is made for any model of the Hub: here its application keeps the addresses that concern one
    language model, and its handler of completions sees requests only after `read_request`.
    """
    if not is_serve_available():
        raise ImportError("a server needs fastapi, openai and uvicorn: pip install 'rnn_hf[serving]'")
    if max_tokens_limit < 2:
        raise ValueError(f"--max_tokens_limit must be at least 2, a prompt and a new token; got {max_tokens_limit}")
    if not 0 < time_limit < math.inf:
        raise ValueError(f"--time_limit must be above 0 seconds, got {time_limit}")
    assembled = assemble(name)
    (loaded,) = assembled._model_manager.loaded_models.values()
    loaded.model.generate = partial(generate_within, loaded.model.generate, time_limit)
    handler = assembled._completion_handler
    answer = handler.handle_request

    async def handle_request(body: dict, request_id: str) -> Any:
        return await answer(read_request(body, name, loaded.processor, max_tokens_limit), request_id)

    handler.handle_request = handle_request
    entry = {"id": name, "object": "model", "created": 0, "owned_by": "rnn_hf"}
    # transformers lists the models in the cache of the machine.
    assembled._model_manager.get_gen_models = lambda: [entry]
    answer_in_words(assembled.server.config.app)
    return assembled.server


class Assembled(Serve):
    """transformers' server with its model loaded, not yet running."""

    def start_server(self):
        """Leave it to the caller."""


def assemble(name: str) -> Any:
    """transformers' server of one model of this package, by name or directory."""
    repository, _, revision = name.partition("@")
    if revision and Path(name).exists():
        raise ValueError(f"{name} cannot be served: transformers takes what follows @ in a name for a revision")
    try:
        config = AutoConfig.from_pretrained(repository, revision=revision or None)
        (architecture,) = config.architectures or ["RNNForCausalLM"]
        if not architecture.endswith("ForCausalLM") or not hasattr(models, architecture):
            raise ValueError(f"it is a {architecture}, and no causal language model of this package")
        # Where transformers' server looks a model's class up.
        setattr(transformers, architecture, getattr(models, architecture))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return Assembled(force_model=name, device=device, log_level="error", non_blocking=True)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"cannot serve the model {name}: {reason}") from error


def generate_within(generate: Callable, seconds: float, *, input_ids, generation_config, tokenizer, **inputs) -> Any:
    """`generate()` of a served model, one request at a time: within the time limit, with its own seed and stops."""
    prompt_tokens = input_ids.shape[1]
    criteria: list[StoppingCriteria] = [TimeLimit(seconds, generation_config, prompt_tokens)]
    seed, stops = (vars(generation_config).pop(name, None) for name in ("seed", "stop"))
    if stops is not None:
        criteria.append(StopTexts(stops, tokenizer, prompt_tokens))
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return generate(input_ids=input_ids, generation_config=generation_config, stopping_criteria=criteria, **inputs)


def read_request(body: dict[str, Any], name: str, tokenizer: Any, max_tokens_limit: int) -> dict[str, Any]:
    """A request for a completion in the form that transformers' handler takes it, if it is one that is answered.

    Args:
        body: As it came.
        name: The model that is served.
        tokenizer: Its tokenizer.
        max_tokens_limit: See `serve`.

    Raises:
        BadRequest: A field is unknown or has no effect here, is missing or of a wrong type or out of range; another
            model is asked for; or prompt and completion together are too long.
    """
    given = {field: value for field, value in body.items() if value is not None and field not in WITHOUT_EFFECT}
    model = given.pop("model", name)
    if model != name:
        raise BadRequest(f"model: this server has {name!r} alone, not {model!r}", "model", status=404)
    for field, value in given.items():
        if field in NEUTRAL:
            if value != NEUTRAL[field]:
                neutral = json.dumps(NEUTRAL[field])
                raise BadRequest(f"{field} has no effect here: leave it out, or at {neutral}", field)
        elif field not in RULES:
            raise BadRequest(f"unknown field {field!r}; known are model, {', '.join(RULES)}")
        else:
            kind, is_allowed, words = RULES[field]
            # In Python, true and false are whole numbers.
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool) or not is_allowed(value):
                raise BadRequest(f"{field} must be {words}", field)
    if "prompt" not in given:
        raise BadRequest(f"prompt is missing: it must be {RULES['prompt'][2]}", "prompt")
    prompt_tokens = len(tokenizer(given["prompt"])["input_ids"])
    if prompt_tokens == 0:
        start = tokenizer.bos_token or tokenizer.eos_token
        raise BadRequest(f"prompt has no tokens: a text from its beginning has the prompt {start!r}", "prompt")
    max_tokens = given.get("max_tokens", DEFAULT_MAX_TOKENS)
    if prompt_tokens + max_tokens > max_tokens_limit:
        raise BadRequest(
            f"prompt has {prompt_tokens} tokens: with max_tokens {max_tokens} that is above this server's limit of "
            f"{max_tokens_limit}", "max_tokens",
        )  # fmt: skip
    # For `generate_within`: as a field the seed would be set at once, in the midst of another request.
    settings: dict[str, Any] = {"seed": given.pop("seed", None), "stop": given.pop("stop", None)}
    if isinstance(settings["stop"], str):
        settings["stop"] = [settings["stop"]]
    if "temperature" in given or "top_p" in given:
        # transformers leaves the temperature out of account for a model that does not sample by itself.
        settings["do_sample"] = given.get("temperature") != 0
    known = {field: value for field, value in given.items() if field in RULES}
    return known | {"model": name, "max_tokens": max_tokens, "generation_config": json.dumps(settings)}


def answer_in_words(app: Any) -> None:
    """Take the addresses that are not served out of an application, and give its errors the form of the API."""
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException

    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", None) in SERVED]

    def answer(status: int, message: str, field: str | None = None) -> Any:
        error = {"message": message, "type": "invalid_request_error", "param": field, "code": None}
        return JSONResponse({"error": error}, status_code=status)

    async def refused(request: Any, error: BadRequest) -> Any:
        return answer(error.status, str(error), error.field)

    async def not_json(request: Any, error: RequestValidationError) -> Any:
        reasons = "; ".join(reason["msg"] for reason in error.errors())
        return answer(400, f"the body must be a JSON object, sent as application/json: {reasons}")

    async def failed(request: Any, error: HTTPException) -> Any:
        return answer(error.status_code, NOT_SERVED if error.status_code in (404, 405) else str(error.detail))

    app.add_exception_handler(BadRequest, refused)
    app.add_exception_handler(RequestValidationError, not_json)
    app.add_exception_handler(HTTPException, failed)
