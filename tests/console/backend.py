"""The admin API's shapes over a `Stage`, with the real page beside it, on a real server. Time stands still unless told."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from urllib.parse import parse_qs

import orjson
import uvicorn

from server.console import Console, ConsoleConfig
from tests.console.stage import Stage, TwoGroups
from variants.errors import InvalidInput, UnknownModel

T = TypeVar("T")
AnyStage = Stage | TwoGroups
TOKEN = "let-me-in"


class Backend:
    """Serves on loopback at `port` in a thread of its own. Every request's path is kept in `seen`."""

    def __init__(
        self, port: int, *, token: str | None = None, grafana: str | None = None, stage: type[AnyStage] = Stage
    ) -> None:
        self.stage: Any = stage(time.time() - 240)
        self.token = token
        self.seen: list[tuple[str, str, Any]] = []
        self.refusal: tuple[int, str] | None = None
        self.url = f"http://127.0.0.1:{port}/ui/"
        self._port = port
        self._console = Console(ConsoleConfig(grafana_url=grafana))
        self._streams: set[asyncio.Queue[bytes | None]] = set()
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # Life

    def start(self) -> None:
        """Serve; returns once connections are accepted."""
        config = uvicorn.Config(self, host="127.0.0.1", port=self._port, log_level="error", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, args=(self._server,), daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 20
        while not self._server.started:
            assert time.monotonic() < deadline, "the test server did not start"
            time.sleep(0.02)

    def _serve(self, server: uvicorn.Server) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            runner.run(server.serve())

    def stop(self) -> None:
        """Close every connection and the port."""
        if self._server is None or self._thread is None:
            return

        async def end() -> None:
            for stream in self._streams:
                stream.put_nowait(None)

        self._run(end())
        self._server.should_exit = True
        self._thread.join(timeout=20)
        assert not self._thread.is_alive()
        self._server = self._thread = None

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=20)

    def play(self, ticks: int = 1, change: Callable[[Any], None] | None = None) -> None:
        """Change the stage, then tick; every tick is told to whoever listens."""

        async def go() -> None:
            if change:
                change(self.stage)
            for _ in range(ticks):
                written = len(self.stage.records())
                await self.stage.ticks(1)
                self._tell("status", self.stage.status())
                records = self.stage.records()
                for record in reversed(records[: len(records) - written]):
                    self._tell("decision", record)

        self._run(go())

    def _tell(self, event: str, value: Any) -> None:
        for stream in self._streams:
            stream.put_nowait(_event(event, value))

    # What it answers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path: str = scope["path"]
        if path == "/ui" or path.startswith("/ui/"):
            await self._console(scope, receive, send)
            return
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        content = orjson.loads(body) if body else None
        self.seen.append((scope["method"], path, content))
        headers = dict(scope["headers"])
        if self.token and headers.get(b"authorization") != f"Bearer {self.token}".encode():
            await _answer(
                send,
                401,
                {"error": "a bearer token is needed" if b"authorization" not in headers else "the token is not known"},
            )
            return
        if self.refusal and (scope["method"] == "POST" or self.refusal[0] == 403):
            await _answer(send, self.refusal[0], {"error": self.refusal[1]})
            return
        if path == "/admin/v1/events":
            await self._events(receive, send)
            return
        try:
            query = {k: v[0] for k, v in parse_qs(scope["query_string"].decode()).items()}
            await _answer(send, 200, self._get(path, query) if scope["method"] == "GET" else self._post(path, content))
        except (UnknownModel, InvalidInput) as error:
            await _answer(send, 404 if isinstance(error, UnknownModel) else 400, {"error": str(error)})

    def _get(self, path: str, query: dict[str, str]) -> Any:
        match path.removeprefix("/admin/v1/"):
            case "status":
                return self.stage.status()
            case "plan":
                return self.stage.plan()
            case "decisions":
                before, limit = float(query.get("before", "inf")), int(query["limit"])
                older = [r for r in self.stage.records() if r["at"] < before]
                return {"decisions": older[:limit], "next": older[limit - 1]["at"] if len(older) > limit else None}
        raise UnknownModel(f"no {path}")

    def _post(self, path: str, content: Any) -> Any:
        orders = self.stage.orders
        match path.removeprefix("/admin/v1/"):
            case "pin" | "swap":
                orders.pin(content["model"], content["variant"])
            case "park":
                orders.pin(content["model"], None)
            case "unpin":
                orders.unpin(content["model"])
            case "quarantine/clear":
                orders.lift(content["model"], content["variant"])
        return {"generation": 1, "model": content["model"], "holds": []}

    async def _events(self, receive: Any, send: Any) -> None:
        stream: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._streams.add(stream)
        try:
            headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b": hello\n\n", "more_body": True})
            gone = asyncio.create_task(receive())
            while True:
                waiting = asyncio.create_task(stream.get())
                await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
                if gone.done() or (chunk := waiting.result()) is None:
                    waiting.cancel()
                    break
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            gone.cancel()
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._streams.discard(stream)


def _event(name: str, value: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(value) + b"\n\n"


async def _answer(send: Any, status: int, content: Any) -> None:
    body = orjson.dumps(content)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
