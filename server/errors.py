"""One table: domain error -> HTTP and gRPC status."""

from __future__ import annotations

import math
from typing import Any

import grpc

from server import auth
from variants import errors


class TooSlow(errors.RequestError):
    """The client took too long to send its request."""


class UnsupportedMedia(errors.RequestError):
    """The body's content type is not one that is taken here."""


#: Most specific first: the first class that an error is an instance of decides.
STATUS: tuple[tuple[type[Exception], int, grpc.StatusCode], ...] = (
    (auth.Unauthenticated, 401, grpc.StatusCode.UNAUTHENTICATED),
    (auth.Forbidden, 403, grpc.StatusCode.PERMISSION_DENIED),
    (auth.RateLimited, 429, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.InvalidInput, 400, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.UnknownModel, 404, grpc.StatusCode.NOT_FOUND),
    (errors.UnknownBudget, 404, grpc.StatusCode.NOT_FOUND),
    (errors.Conflict, 409, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.UnknownRegion, 404, grpc.StatusCode.NOT_FOUND),
    (errors.AlreadyThere, 400, grpc.StatusCode.ALREADY_EXISTS),
    (errors.Unsupported, 501, grpc.StatusCode.UNIMPLEMENTED),
    (errors.TooLarge, 413, grpc.StatusCode.RESOURCE_EXHAUSTED),
    # Well-formed and worth repeating once the server's state has changed: conditions of the request (often in its headers)
    # that do not hold now, as RFC 9110 15.5.13 has it; not 409, nothing was to be modified, nor 503, the model answers.
    (errors.WishUnmet, 412, grpc.StatusCode.FAILED_PRECONDITION),
    (TooSlow, 408, grpc.StatusCode.DEADLINE_EXCEEDED),
    (UnsupportedMedia, 415, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.QueueFull, 503, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.Unavailable, 503, grpc.StatusCode.UNAVAILABLE),
    (errors.DeadlineExceeded, 504, grpc.StatusCode.DEADLINE_EXCEEDED),
    (errors.EngineUnavailable, 503, grpc.StatusCode.UNAVAILABLE),
    (errors.EngineFailed, 500, grpc.StatusCode.INTERNAL),
)
INTERNAL = "internal error; the server's log has the details"


def http_status(error: Exception) -> int:
    """The HTTP status of an error; 500 for one that is not in the table."""
    return _statuses(type(error))[0]


def grpc_status(error: Exception) -> grpc.StatusCode:
    """The gRPC status of an error; INTERNAL for one that is not in the table."""
    return _statuses(type(error))[1]


#: What was looked up of the table: under overload most answers are refusals.
_LOOKED_UP: dict[type[Exception], tuple[int, grpc.StatusCode]] = {}


def _statuses(kind: type[Exception]) -> tuple[int, grpc.StatusCode]:
    if kind not in _LOOKED_UP:
        listed = ((status, code) for of, status, code in STATUS if issubclass(kind, of))
        _LOOKED_UP[kind] = next(listed, (500, grpc.StatusCode.INTERNAL))
    return _LOOKED_UP[kind]


def message(error: Exception) -> str:
    """What a client is told: the error's own words when it is one of ours, else nothing of its inside."""
    return str(error) if isinstance(error, errors.TrimtabError) else INTERNAL


def details(error: Exception) -> dict[str, Any]:
    """What a client is told beside the message, JSON-able: for a wish that is not met, what can be had now."""
    return {"available": list(error.available)} if isinstance(error, errors.WishUnmet) else {}


def retry_after(error: Exception) -> str | None:
    """The `Retry-After` header (whole seconds, at least 1) of an error that suggests one."""
    seconds = getattr(error, "retry_after_seconds", None)
    return None if seconds is None else str(max(1, math.ceil(seconds)))
