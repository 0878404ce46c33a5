"""Load from this process: at a fixed rate whatever the server does (open loop), or from so many clients (closed loop).

For calls of milliseconds, where a Python client costs little beside them. Answers are kept and looked at after the run,
so that checking every one of them takes nothing from the server.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httptools
import numpy as np
import uvloop


@dataclass(frozen=True)
class Request:
    """One request of a plan: `at` seconds after the start, and the index of what is sent."""

    at: float
    index: int


@dataclass
class Result:
    """What became of a request. Times are seconds after the start; `ended` 0: no answer."""

    request: Request
    ended: float = 0.0
    status: int = 0
    body: bytes = b""


class _Connection(asyncio.Protocol):
    """One HTTP/1.1 connection, one request at a time."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._done: asyncio.Future[tuple[int, bytes]] | None = None
        self._parts: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        assert self._done is not None
        if not self._done.done():
            self._done.set_result((self._parser.get_status_code(), b"".join(self._parts)))

    def connection_lost(self, error: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError("the server closed the connection"))

    @property
    def lost(self) -> bool:
        return bool(self._transport.is_closing())

    @property
    def reusable(self) -> bool:
        """Whether the server did not announce with its answer that it will close, as HAProxy does when it is reloaded."""
        return bool(self._parser.should_keep_alive())

    async def send(self, message: bytes) -> tuple[int, bytes]:
        self._done = asyncio.get_running_loop().create_future()
        self._parts = []
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(message)
        return await self._done

    def close(self) -> None:
        self._transport.close()


def message(url: str, body: bytes) -> bytes:
    """A POST of a JSON body as it goes over the wire."""
    parts = urlsplit(url)
    head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


class _Pool:
    def __init__(self, host: str, port: int) -> None:
        self._where = (host, port)
        self._idle: list[_Connection] = []

    async def send(self, sent: bytes) -> tuple[int, bytes]:
        while self._idle:
            connection = self._idle.pop()
            if not connection.lost:
                break
        else:
            _, connection = await asyncio.get_running_loop().create_connection(_Connection, *self._where)
        answer = await connection.send(sent)
        if connection.reusable:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    def close(self) -> None:
        for connection in self._idle:
            connection.close()


async def _ask(pool: _Pool, sent: bytes, result: Result, started: float) -> None:
    try:
        async with asyncio.timeout(60):
            result.status, result.body = await pool.send(sent)
        result.ended = time.perf_counter() - started
    except (OSError, TimeoutError):
        result.status = 0


async def _open(messages: Sequence[bytes], host: str, port: int, plan: Sequence[Request]) -> list[Result]:
    pool, results, tasks = _Pool(host, port), [], []
    started = time.perf_counter()
    for request in plan:
        wait = request.at - (time.perf_counter() - started)
        if wait > 0:
            await asyncio.sleep(wait)
        results.append(Result(request))
        tasks.append(asyncio.create_task(_ask(pool, messages[request.index], results[-1], started)))
    await asyncio.gather(*tasks)
    pool.close()
    return results


async def _closed(
    messages: Sequence[bytes], host: str, port: int, concurrency: int, seconds: float, draw: Callable[[], int]
) -> list[Result]:
    pool, results = _Pool(host, port), []
    started = time.perf_counter()

    async def client() -> None:
        while (now := time.perf_counter() - started) < seconds:
            result = Result(Request(now, draw()))
            results.append(result)
            await _ask(pool, messages[result.request.index], result, started)

    await asyncio.gather(*(client() for _ in range(concurrency)))
    pool.close()
    return results


def _run(made: Any) -> list[Result]:
    gc.collect()
    gc.disable()  # a pause would be measured as the server's
    try:
        return list(uvloop.run(made))
    finally:
        gc.enable()


def open_loop(messages: Sequence[bytes], address: tuple[str, int], plan: Sequence[Request]) -> list[Result]:
    """Send each request of the plan at its time, whatever came back by then."""
    return _run(_open(messages, *address, plan))


def closed_loop(
    messages: Sequence[bytes], address: tuple[str, int], concurrency: int, seconds: float, draw: Callable[[], int]
) -> list[Result]:
    """So many clients that send their next request when they have their answer; `draw` says what is sent next."""
    return _run(_closed(messages, *address, concurrency, seconds, draw))


def poisson(rate: float, seconds: float, weights: Sequence[float], seed: int) -> list[Request]:
    """Requests at random times (`rate` per second in the mean), drawn by weight; the same for the same seed."""
    random = np.random.default_rng(seed)
    at = np.cumsum(random.exponential(1 / rate, int(rate * seconds * 1.5) + 100))
    at = at[at < seconds]
    shares = np.asarray(weights, float) / sum(weights)
    return [Request(float(t), int(i)) for t, i in zip(at, random.choice(len(shares), len(at), p=shares), strict=True)]


def zipf(count: int, exponent: float = 1.0) -> list[float]:
    """Weights of `count` things, the first the most popular."""
    return [1 / rank**exponent for rank in range(1, count + 1)]
