"""The page and its answers, over HTTP on this machine.

The page is one document, so that there is no path to files. Only this machine's own names are accepted as the host (a name of
another site that leads here is not), and only requests of the page itself.
"""

import json
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from steps.common.errors import UserError
from steps.common.exploration.explorer import Explorer
from steps.common.ports import HOST

# Bytes of a request at most: a question of a quarter of a million letters in any script.
LARGEST = 1_000_000

# Seconds that answers may take when the server is ended.
ENDING = 2

HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Refused(Exception):
    """A request that is not answered: a status, and why."""

    def __init__(self, status: int, why: str):
        super().__init__(why)
        self.status = status


def make_app(page: str, explorer: Explorer) -> Starlette:
    """The page at /, and what it asks: POST /search {"query": text} and POST /neighbours {"row": number}."""

    async def show(request: Request) -> Response:
        return HTMLResponse(page, headers=HEADERS)

    async def search(request: Request) -> Response:
        return await _answer(request, "query", str, explorer.search)

    async def neighbours(request: Request) -> Response:
        return await _answer(request, "row", int, explorer.neighbours)

    return Starlette(
        routes=[
            Route("/", show),
            Route("/search", search, methods=["POST"]),
            Route("/neighbours", neighbours, methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False)],
    )


async def _answer(request: Request, name: str, kind: type, find: Callable[[Any], dict]) -> Response:
    """The answer to the one value that a request gives; its refusal, with the reason for the page."""
    try:
        _check_origin(request)
        value = await _read(request, name, kind)
        return JSONResponse(await run_in_threadpool(find, value), headers=HEADERS)
    except (Refused, UserError) as error:
        status = error.status if isinstance(error, Refused) else 400
        return JSONResponse({"message": str(error)}, status, headers=HEADERS)


def _check_origin(request: Request) -> None:
    """Raises Refused for a request that another site has made a browser send."""
    origin = request.headers.get("origin")
    if origin is not None and origin != f"http://{request.headers['host']}":
        raise Refused(403, "Only the page itself may ask.")


async def _read(request: Request, name: str, kind: type) -> Any:
    """The value of that name and type in the body, a JSON object."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST:
            raise Refused(413, f"The question is too long: {LARGEST:,} bytes at most.")
    try:
        content = json.loads(body)
        value = content[name]
    except (ValueError, KeyError, TypeError, RecursionError):
        value = None
    # True and false are numbers in Python.
    if type(value) is not kind:
        raise Refused(400, f'Expected JSON with "{name}".')
    return value


def serve(app: Starlette, listener: socket.socket) -> None:
    """Answer until Ctrl-C or SIGTERM, which uvicorn raises again when it has ended."""
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=ENDING
    )
    uvicorn.Server(config).run(sockets=[listener])
