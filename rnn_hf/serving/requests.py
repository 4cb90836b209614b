"""What may be asked of a model that is served: the fields of a request, read from its body and checked."""

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from types import UnionType
from typing import Any

import torch


DEFAULT_MAX_TOKENS = 16  # of the API
BODY_BYTES, BYTES_PER_TOKEN = 1_000_000, 16  # the larger of the first and the second times the limit of tokens
REQUEST_SECONDS = 10  # for the head of a request, and again for its body


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
# Fields of the API that this server lacks: refused, but at the value that changes nothing.
NEUTRAL: dict[str, Any] = {
    "best_of": 1, "echo": False, "logit_bias": {}, "logprobs": None, "n": 1, "presence_penalty": 0, "suffix": "",
}  # fmt: skip
WITHOUT_EFFECT = {"stream_options", "user"}  # the last event of a stream says the usage in any case


class Refused(ValueError):
    """A request that is refused; the message names the field."""

    def __init__(self, message: str, field: str | None = None, status: int = 400):
        super().__init__(message)
        self.field, self.status = field, status


@dataclass
class Served:
    """A model that is served, and within which limits.

    Attributes:
        name: By which clients know the model; no path of this machine.
        start: What stands before a text: the prompt of an empty text.
        stops: Texts to stop at that the model's own generation config has.
        thread: In which all generations run, one after the other.
    """

    name: str
    model: Any
    tokenizer: Any
    start: str
    stops: list[str]
    max_tokens_limit: int
    time_limit: float
    thread: Executor


@dataclass
class Request:
    """A request for a completion that was checked; `settings` are fields of a generation config."""

    input_ids: torch.Tensor  # (1, T)
    settings: dict[str, Any]
    stops: list[str]
    seed: int | None = None
    stream: bool = False


async def read_body(request: Any, max_tokens_limit: int) -> bytearray:
    """The body of a `starlette.requests.Request`.

    Raises:
        Refused: It is not said to be JSON, does not come to its end in time, or is longer than a prompt may be.
    """
    from starlette.requests import ClientDisconnect

    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused("the body must be a JSON object, sent as application/json")
    limit = max(BODY_BYTES, BYTES_PER_TOKEN * max_tokens_limit)
    too_long = Refused(f"the body is above this server's limit of {limit} bytes", status=413)
    if int(request.headers.get("content-length", "0")[:18]) > limit:
        raise too_long

    async def read() -> bytearray:
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > limit:
                raise too_long
        return content

    try:
        return await asyncio.wait_for(read(), REQUEST_SECONDS)
    except asyncio.TimeoutError:
        raise Refused(f"the body did not come within {REQUEST_SECONDS} seconds", status=408) from None
    except ClientDisconnect:
        raise Refused("the body did not come to its end") from None


def read_request(content: bytes | bytearray, served: Served) -> Request:
    """The request for a completion in a body, if it is one that is answered; takes seconds for a long prompt.

    Raises:
        Refused: The body is no JSON object; a field is unknown or not supported, is missing or of a wrong type or out
            of range; another model is asked for; or prompt and completion together are too long.
    """
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Refused(f"the body must be a JSON object: {error}") from None
    if not isinstance(body, dict):
        raise Refused("the body must be a JSON object")
    fields = check_fields(body, served.name)
    ids = served.tokenizer(fields["prompt"], add_special_tokens=False)["input_ids"]
    prompt_tokens = len(ids)
    max_tokens = fields.get("max_tokens", DEFAULT_MAX_TOKENS)
    if prompt_tokens == 0:
        raise Refused(f"prompt has no tokens: a text from its beginning has the prompt {served.start!r}", "prompt")
    if prompt_tokens + max_tokens > served.max_tokens_limit:
        raise Refused(
            f"prompt has {prompt_tokens} tokens: with max_tokens {max_tokens} that is above this server's limit of "
            f"{served.max_tokens_limit}", "max_tokens",
        )  # fmt: skip
    settings: dict[str, Any] = {"max_new_tokens": max_tokens}
    if "frequency_penalty" in fields:
        settings["repetition_penalty"] = 1.0 + fields["frequency_penalty"]
    if "temperature" in fields or "top_p" in fields:
        settings["do_sample"] = fields.get("temperature") != 0
    if settings.get("do_sample"):
        settings |= {field: float(fields[field]) for field in ("temperature", "top_p") if field in fields}
    stops = fields.get("stop", [])
    stops = [stops] if isinstance(stops, str) else stops
    return Request(torch.tensor([ids], device="cpu"), settings, stops, fields.get("seed"), fields.get("stream", False))


def check_fields(body: dict[str, Any], name: str) -> dict[str, Any]:
    """The fields that are given and count, each of them as `RULES` has it; errors as of `read_request`."""
    fields = {field: value for field, value in body.items() if value is not None and field not in WITHOUT_EFFECT}
    model = fields.pop("model", name)
    if model != name:
        raise Refused(f"model: this server has {name!r} alone, not {model!r}", "model", status=404)
    for field, value in fields.items():
        if field in NEUTRAL:
            if value != NEUTRAL[field]:
                raise Refused(f"{field} has no effect here: leave it out, or at {json.dumps(NEUTRAL[field])}", field)
        elif field not in RULES:
            raise Refused(f"unknown field {field!r}; known are model, {', '.join(RULES)}")
        else:
            kind, is_allowed, words = RULES[field]
            # In Python, true and false are whole numbers.
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool) or not is_allowed(value):
                raise Refused(f"{field} must be {words}", field)
    if "prompt" not in fields:
        raise Refused(f"prompt is missing: it must be {RULES['prompt'][2]}", "prompt")
    return fields
