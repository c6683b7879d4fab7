"""The page's server: a clip is posted as bytes and answered; frames of a camera come through a WebSocket.

What a browser may send is bytes, never a path, an address or a pickle. A clip lies in a file of the server's own naming
for as long as its answer takes. Only this machine's names are answered, and only pages of this server may ask, so no
other page that is open in the browser reaches it.
"""

from __future__ import annotations

import json
import struct
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from cclslr.console import console
from cclslr.errors import UserError
from cclslr.poses import follow
from cclslr.serve.answer import Answerer
from cclslr.serve.limits import MAX_PICTURE, open_picture
from cclslr.serve.live import Live

CAMERAS = 2  # that sign at once; each holds an estimator
_PAGE = Path(__file__).with_name("page.html")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; "
        "img-src data: blob:; media-src blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Refused(Exception):
    """A request that is turned away: status and reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass
class Server:
    """What the routes share.

    Attributes:
        folder: where clips lie while they are answered; each has a folder of its own there.
        waiting: requests that hold or wait for the model.
    """

    answerer: Answerer
    folder: Path
    turn: anyio.CapacityLimiter  # of one: a clip or a camera's frame at a time, in the order of asking
    waiting: int = 0
    cameras: int = 0

    def about(self) -> dict[str, Any]:
        """What the page says of itself."""
        model, limits, index = self.answerer.model, self.answerer.limits, self.answerer.index
        live = "pose" in model.modalities and bool(model.classes)
        return {
            "checkpoint": Path(model.source).name,
            "kind": model.kind,
            "classes": len(model.classes),
            "branches": model.modalities,
            "estimator": self.answerer.estimator.version,
            "dictionary": 0 if index is None else len(index),
            "limits": {"megabytes": limits.megabytes, "seconds": limits.seconds},
            "live": live,
            "why_not_live": "" if live else "signing live needs a fine-tuned model with a pose branch",
        }

    async def clip(self, request: Request) -> dict[str, Any]:
        """Answer the clip in a request's body.

        Raises:
            Refused: too large, no video, unusable, or too many wait.
        """
        limits = self.answerer.limits
        if self.waiting >= limits.waiting:
            raise Refused(503, f"{self.waiting} clips wait already; try again in a minute")
        self.waiting += 1
        try:
            with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                path = Path(folder) / "clip"
                await self._receive(request, path)
                began = time.perf_counter()
                with anyio.CancelScope(shield=True):  # the file stays until the thread that reads it has ended
                    answer = await anyio.to_thread.run_sync(self._answer, path, limiter=self.turn)
                answer["stages"]["waiting"] = round(1000 * (answer.pop("began") - began), 1)
                return answer
        except UserError as error:
            raise Refused(422, str(error).removeprefix(f"{path}: ").removeprefix("clip: ")) from error
        finally:
            self.waiting -= 1

    async def _receive(self, request: Request, path: Path) -> None:
        """Write the body into a file, as it comes, and never more of it than is allowed."""
        limits, size = self.answerer.limits, 0
        with path.open("wb") as file:
            async for chunk in request.stream():
                size += len(chunk)
                if size > limits.bytes:
                    raise Refused(413, f"the clip is larger than {limits.megabytes:g} MB; cut it to one sign")
                file.write(chunk)
        if size == 0:
            raise Refused(400, "there is no clip in the request")

    def _answer(self, path: Path) -> dict[str, Any]:
        began = time.perf_counter()
        return {**self.answerer(path), "began": began}

    async def watch(self, socket: WebSocket) -> None:
        """Take a camera's frames until it closes: 8 bytes of time in seconds, then a JPEG.

        The newest frame waits for the estimator, older ones are dropped. Each answer says how many came, were used and
        were dropped.
        """
        newest: list[bytes] = []
        came = dropped = 0
        arrived = anyio.Event()
        live = Live(self.answerer.model, follow(self.answerer.estimator))

        async def receive() -> None:
            nonlocal came, dropped
            while True:
                message = await socket.receive_bytes()
                came += 1
                dropped += len(newest)
                newest[:] = [message]
                arrived.set()

        async def work() -> None:
            nonlocal arrived
            last = -1.0
            while True:
                await arrived.wait()
                arrived = anyio.Event()
                while newest:
                    message = newest.pop()
                    with anyio.CancelScope(shield=True):
                        last, answer = await anyio.to_thread.run_sync(
                            self._look, live, message, last, limiter=self.turn
                        )
                    await socket.send_text(json.dumps({**answer, "came": came, "dropped": dropped}))

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive)
                tasks.start_soon(work)
        finally:
            live.close()

    def _look(self, live: Live, message: bytes, last: float) -> tuple[float, dict[str, Any]]:
        if not 8 < len(message) <= MAX_PICTURE + 8:
            raise UserError(f"a frame is a time and a JPEG of {MAX_PICTURE:,} bytes at most")
        (seconds,) = struct.unpack("<d", message[:8])
        if not last < seconds < 1e9:
            raise UserError("the times of the frames do not rise")
        return seconds, live(open_picture(message[8:]), seconds)


def build_app(answerer: Answerer, hosts: list[str]) -> Starlette:
    """The application.

    Args:
        hosts: names under which it answers, without port.
    """
    holder: dict[str, Server] = {}

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        with tempfile.TemporaryDirectory(prefix="cclslr-serve-") as folder:
            holder["server"] = app.state.server = Server(answerer, Path(folder), anyio.CapacityLimiter(1))
            yield

    async def page(request: Request) -> Response:
        return Response(_PAGE.read_bytes(), media_type="text/html; charset=utf-8", headers=_HEADERS)

    async def about(request: Request) -> Response:
        return JSONResponse(holder["server"].about(), headers=_HEADERS)

    async def clip(request: Request) -> Response:
        try:
            _only_our_page(request)
            return JSONResponse(await holder["server"].clip(request), headers=_HEADERS)
        except Refused as error:
            # what was not read of the body would be taken for the next request
            headers = {**_HEADERS, "Connection": "close"}
            return JSONResponse({"error": str(error)}, error.status, headers)
        except ClientDisconnect:
            return Response(status_code=499)

    async def live(socket: WebSocket) -> None:
        server = holder["server"]
        try:
            _only_our_page(socket)
            if not server.about()["live"]:
                raise Refused(409, server.about()["why_not_live"])
            if server.cameras >= CAMERAS:
                raise Refused(503, f"{CAMERAS} cameras sign already")
        except Refused as error:
            await socket.accept()
            await socket.send_text(json.dumps({"error": str(error)}))
            await socket.close(1008)
            return
        await socket.accept()
        server.cameras += 1
        try:
            await server.watch(socket)
        except* WebSocketDisconnect:
            pass
        except* UserError as errors:
            await socket.send_text(json.dumps({"error": str(errors.exceptions[0])}))
            await socket.close(1008)
        finally:
            server.cameras -= 1

    async def bug(request: Request, error: Exception) -> Response:
        console.print_exception()
        return JSONResponse({"error": "a bug of the server; its console says more"}, 500, _HEADERS)

    routes = [
        Route("/", page),
        Route("/about", about),
        Route("/clip", clip, methods=["POST"]),
        WebSocketRoute("/live", live),
    ]
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)]
    return Starlette(routes=routes, middleware=middleware, lifespan=lifespan, exception_handlers={Exception: bug})


def _only_our_page(connection: HTTPConnection) -> None:
    """Refuse what another page in the browser asks: browsers say where a request is from."""
    origin = connection.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != connection.headers.get("host"):
        raise Refused(403, f"{origin} may not ask this server")
