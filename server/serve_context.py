"""Serve's gRPC context, as the servicer expects grpc.aio's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import grpc


class Aborted(Exception):
    """Ends a call whose status has been set on Serve's context."""


class ServeContext:
    """The part of `grpc.aio.ServicerContext` that `server.grpc_api` uses, over Serve's `RayServegRPCContext`. Serve does
    not hand on the client's deadline."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def time_remaining(self) -> float | None:
        """None: not known."""
        return None

    def invocation_metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """What the client sent beside the request."""
        return tuple(self._context.invocation_metadata() or ())

    def set_trailing_metadata(self, metadata: Sequence[tuple[str, str]]) -> None:
        """Add to what Serve sends after the answer."""
        self._context.set_trailing_metadata([*(self._context.trailing_metadata() or ()), *metadata])

    async def abort(
        self, code: grpc.StatusCode, details: str, trailing_metadata: Sequence[tuple[str, str]] = ()
    ) -> NoReturn:
        """Set the status and leave; Serve keeps a status that was set before an exception."""
        if trailing_metadata:
            self.set_trailing_metadata(trailing_metadata)
        self._context.set_code(code)
        self._context.set_details(details)
        raise Aborted(details)
