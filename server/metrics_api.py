"""`/metrics` of the replica that happens to answer; scrapers use each process's own endpoint."""

from __future__ import annotations

import asyncio
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder


class MetricsApi:
    """An ASGI app that answers any GET with the registry's exposition: OpenMetrics where the client accepts it, and only
    that has exemplars."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        accept = dict(scope["headers"]).get(b"accept", b"").decode("latin-1")
        encode, content_type = choose_encoder(accept)
        body = await asyncio.to_thread(encode, self._registry)
        headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
