"""The HTTP side of the server: addresses, errors in the form of the API, and who may connect and for how long."""

import asyncio
import re
from typing import Any

from rnn_hf.serving.answers import DONE, Completion, event, failure, json_response
from rnn_hf.serving.requests import REQUEST_SECONDS, Refused, Served, read_body, read_request


NOT_SERVED = (
    "no such address or method: this server has POST /v1/completions, GET /v1/models and GET /health; no chat, for "
    "which models of this package have no template"
)
CONNECTIONS = 256  # at a time; more are told to come later


def application(served: Served, hosts: set[str] | None) -> Any:
    """The ASGI application that serves a model; for `hosts` see `rnn_hf.serving.server.build_server`."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.routing import Route

    async def completions(request: Any) -> Any:
        content = await read_body(request, served.max_tokens_limit)
        # In a thread, as a long prompt takes seconds, in which others must be answered.
        return Completion(served, await asyncio.to_thread(read_request, content, served))

    async def list_models(request: Any) -> Any:
        entry = {"id": served.name, "object": "model", "created": 0, "owned_by": "rnn_hf"}
        return json_response({"object": "list", "data": [entry]})

    async def health(request: Any) -> Any:
        return json_response({"status": "ok"})

    async def refused(request: Any, error: Refused) -> Any:
        headers = {"connection": "close"} if error.status == 408 else {}
        return json_response(failure(str(error), field=error.field), error.status, **headers)

    async def not_served(request: Any, error: HTTPException) -> Any:
        is_elsewhere = error.status_code in (404, 405)
        return json_response(failure(NOT_SERVED if is_elsewhere else str(error.detail)), error.status_code)

    async def failed(request: Any, error: Exception) -> Any:
        return json_response(failure("the server failed: its log says why", "server_error"), 500)

    routes = [
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/models", list_models),
        Route("/health", health),
    ]
    handlers: Any = {Refused: refused, HTTPException: not_served, Exception: failed}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return guard(app, hosts)


def guard(app: Any, hosts: set[str] | None) -> Any:
    """An ASGI application that refuses requests for other hosts, and ends in words what is cut as the server ends."""

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        is_started = False

        async def noting(message: Any) -> None:
            nonlocal is_started
            is_started = True
            await send(message)

        # HTTP/1.0 need not name a host; browsers always do.
        host = re.sub(r":\d*$", "", dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower())
        if host and hosts is not None and host not in hosts:
            message = f"this server is reached as {', '.join(sorted(hosts))} alone, not as {host!r}"
            return await json_response(failure(message), 400)(scope, receive, send)
        try:
            await app(scope, receive, noting)
        except asyncio.CancelledError:
            error = failure("the server is ending", "server_error")
            if not is_started:
                return await json_response(error, 503)(scope, receive, send)
            # Nothing but a stream takes time after its start.
            await send({"type": "http.response.body", "body": (event(error) + DONE).encode()})

    return guarded


async def too_many(scope: Any, receive: Any, send: Any) -> None:
    """Answers, in the place of the application, who is one too many."""
    error = failure("the server has too many connections: try again later", "server_error")
    await json_response(error, 503, connection="close")(scope, receive, send)


def protocol() -> Any:
    """uvicorn's protocol of a connection, with the limits that it lacks."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    base: Any = AutoHTTPProtocol

    class Protocol(base):
        """Closes a connection on which no request is under way, nor comes to the end of its head in time."""

        waiting: Any = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > CONNECTIONS:
                self.app = too_many
            self.wait()

        def data_received(self, data: bytes) -> None:
            self.wait()
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self.waiting.cancel()
                self.waiting = None

        def wait(self) -> None:
            if self.waiting is None:
                self.waiting = self.loop.call_later(REQUEST_SECONDS, self.transport.close)

    return Protocol
