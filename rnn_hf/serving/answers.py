"""Answers to requests for completions: text from `generate()`, whole or as a stream, until the client hangs up."""

import asyncio
import copy
import json
import logging
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import torch
from tokenizers.decoders import DecodeStream

from rnn_hf.serving.requests import Request, Served


DONE = "data: [DONE]\n\n"  # after the last event of a stream

logger = logging.getLogger("uvicorn.error")


def failure(message: str, kind: str = "invalid_request_error", field: str | None = None) -> dict[str, Any]:
    """An error in the form of the API."""
    return {"error": {"message": message, "type": kind, "param": field, "code": None}}


def json_response(content: Any, status: int = 200, **headers: str) -> Any:
    """An ASGI application that answers with JSON; in ASCII, which has room for any text."""
    from starlette.responses import Response

    return Response(json.dumps(content), status, headers, "application/json")


def event(content: Any) -> str:
    """An event of a stream."""
    return f"data: {json.dumps(content)}\n\n"


def end_ids(generation_config: Any) -> set[int]:
    """The tokens that end a text."""
    ends = generation_config.eos_token_id
    return set() if ends is None else {ends} if isinstance(ends, int) else set(ends)


class Over(Exception):
    """A generation has come to its end."""


class Writer:
    """The generation of one request: `generate()` gives it tokens, as to a streamer, and it gives text and the end.

    Attributes:
        num_tokens: That came.
        reason: Of the end, in the words of the API: "stop" at an end token or a text to stop at, or "length".
    """

    def __init__(self, served: Served, request: Request, write: Callable[[str], Any], gone: threading.Event):
        """For each piece of text `write` is called; nobody wants more once `gone` is set."""
        self.served, self.request, self.write, self.gone = served, request, write, gone
        self.stops = request.stops + served.stops
        self.kept = max(map(len, self.stops), default=1) - 1  # characters in which a stop may have begun
        self.decoder = DecodeStream([], skip_special_tokens=True)
        self.before, self.num_tokens, self.reason, self.is_prompt = "", 0, "length", True

    def generate(self) -> None:
        """Generate to the end; in a thread of its own, as the seed is the process's."""
        model, request = self.served.model, self.request
        self.deadline = time.monotonic() + self.served.time_limit
        config = copy.deepcopy(model.generation_config)
        for field, value in request.settings.items():
            setattr(config, field, value)
        self.ends = end_ids(config)
        ids = request.input_ids.to(model.device)
        try:
            with torch.random.fork_rng(enabled=request.seed is not None):
                if request.seed is not None:
                    torch.manual_seed(request.seed)
                model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config, streamer=self)
        except Over:
            pass

    def put(self, tokens: torch.Tensor) -> None:
        """Take new tokens, or the prompt the first time."""
        if self.gone.is_set():
            raise Over
        if self.is_prompt:
            self.is_prompt = False
            return
        for token in tokens.flatten().tolist():
            self.num_tokens += 1
            text = self.before + (self.decoder.step(self.served.tokenizer.backend_tokenizer, token) or "")
            ends = [text.index(stop) + len(stop) for stop in self.stops if stop in text]
            new = text[len(self.before) : min(ends, default=len(text))]
            if new:
                self.write(new)
            if ends or token in self.ends:
                self.reason = "stop"
                raise Over
            self.before = text[max(len(text) - self.kept, 0) :]
        if time.monotonic() > self.deadline:
            raise Over

    def end(self) -> None:
        """Nothing is held back."""


class Completion:
    """An answer: an ASGI application that generates and sends, until its client hangs up."""

    def __init__(self, served: Served, request: Request):
        self.served, self.request, self.id = served, request, f"cmpl-{uuid.uuid4().hex}"
        self.created, self.loop = int(time.time()), asyncio.get_running_loop()
        self.gone = threading.Event()
        self.error: Exception | None = None
        self.queue: asyncio.Queue[str | None] = asyncio.Queue()  # texts, and None after the last
        self.parts: list[str] = []
        self.writer = Writer(served, request, self.put if request.stream else self.parts.append, self.gone)

    def put(self, text: str | None) -> None:
        """Hand a text over to the event loop."""
        self.loop.call_soon_threadsafe(self.queue.put_nowait, text)

    def run(self) -> None:
        """Generate, unless the client is gone by now."""
        try:
            if not self.gone.is_set():
                self.writer.generate()
            if not self.request.stream:
                self.put("".join(self.parts))
        except Exception as error:
            self.error = error
        self.put(None)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.served.thread.submit(self.run)
        watching = asyncio.create_task(self.watch(receive))
        try:
            if self.request.stream:
                await self.stream(send)
            else:
                text = "".join([text async for texts in self.texts() for text in texts])
                await json_response(self.content(text, is_last=True))(scope, receive, send)
        finally:
            self.gone.set()
            watching.cancel()

    async def watch(self, receive: Any) -> None:
        """Wait for the client to hang up."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.gone.set()
        self.queue.put_nowait(None)

    async def texts(self) -> AsyncIterator[list[str]]:
        """What has come since the last time."""
        texts: list[str | None] = []
        while None not in texts:
            texts = [await self.queue.get()]
            while not self.queue.empty():
                texts.append(self.queue.get_nowait())
            yield [text for text in texts if text is not None]
        if self.error is not None:
            raise self.error

    async def stream(self, send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            async for texts in self.texts():
                events = "".join(event(self.content(text)) for text in texts)
                await send({"type": "http.response.body", "body": events.encode(), "more_body": True})
            last = self.content("", is_last=True)
        except Exception as error:
            logger.error("a generation failed", exc_info=error)
            last = failure("the generation failed: the server's log says why", "server_error")
        await send({"type": "http.response.body", "body": (event(last) + DONE).encode()})

    def content(self, text: str, is_last: bool = False) -> dict[str, Any]:
        """The whole of an answer, or of a stream an event or the last event."""
        choice = {"text": text, "index": 0, "finish_reason": self.writer.reason if is_last else None}
        answer = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.served.name}
        if not is_last:
            return answer | {"choices": [choice]}
        prompt = self.request.input_ids.shape[1]
        completion = self.writer.num_tokens
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        return answer | {"choices": [choice], "usage": usage}
