"""Server-sent events: every client gets the status of each tick and every decision that is written down.

A client that reads too slowly is let go, and comes back by itself. Source: HTML Living Standard, Server-sent events.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import orjson

from variants.errors import Unavailable

HEARTBEAT_SECONDS = 15.0
#: Events that may wait for one client.
QUEUE = 64
CLIENTS = 32
HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


def event(kind: str, content: Any) -> bytes:
    """One event on the wire."""
    return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps(content) + b"\n\n"


class Hub:
    """Hands events to all clients. Belongs to one event loop."""

    def __init__(self, *, clients: int = CLIENTS, queue: int = QUEUE, heartbeat_seconds: float = HEARTBEAT_SECONDS):
        self._limit = clients
        self._queue = queue
        self._heartbeat = heartbeat_seconds
        self._clients: set[asyncio.Queue[bytes | None]] = set()

    @property
    def clients(self) -> int:
        """How many listen now."""
        return len(self._clients)

    def publish(self, status: dict[str, Any], decision: dict[str, Any] | None) -> None:
        """To every client; one whose queue is full is let go."""
        if not self._clients:
            return
        events = [event("status", status)]
        if decision is not None:
            events.append(event("decision", decision))
        for client in list(self._clients):
            try:
                for item in events:
                    client.put_nowait(item)
            except asyncio.QueueFull:
                self._drop(client)

    def _drop(self, client: asyncio.Queue[bytes | None]) -> None:
        self._clients.discard(client)
        while not client.empty():
            client.get_nowait()
        client.put_nowait(None)

    def close(self) -> None:
        """Let all clients go."""
        for client in list(self._clients):
            self._drop(client)

    async def serve(self, receive: Any, send: Any, first: bytes) -> None:
        """Answer one client until it leaves or is let go; `first` is sent at once. Raises Unavailable when there are too
        many."""
        if len(self._clients) >= self._limit:
            raise Unavailable(f"{self._limit} clients listen already", retry_after_seconds=10.0)
        client: asyncio.Queue[bytes | None] = asyncio.Queue(self._queue)
        self._clients.add(client)
        gone = asyncio.create_task(_disconnected(receive))
        gone.add_done_callback(lambda _: self._drop(client) if client in self._clients else None)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            await send({"type": "http.response.body", "body": first, "more_body": True})
            while True:
                try:
                    async with asyncio.timeout(self._heartbeat):
                        item = await client.get()
                except TimeoutError:
                    item = b": still here\n\n"
                if item is None:
                    break
                await send({"type": "http.response.body", "body": item, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._clients.discard(client)
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await gone


async def _disconnected(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
