"""Domain errors, shared by every layer. `server.errors` maps each to one HTTP and one gRPC status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class TrimtabError(Exception):
    """Base of every error trimtab raises on purpose. Its message names what was wrong, where, and what would do."""


class ConfigError(TrimtabError):
    """A configuration or `model.yaml` file is wrong; the message names file, field and accepted values."""


class ArtefactRefused(TrimtabError):
    """A variant on disk is half-written, corrupt or not trusted; the message names its path and the reason."""


class FetchFailed(TrimtabError):
    """A model repository cannot be fetched; the message names the place and what went wrong there."""


class BuildError(TrimtabError):
    """A technique could not build a variant; the message names model, technique and what to do."""


class EngineUnavailable(TrimtabError):
    """The engine cannot run on this machine (library or device missing)."""


class EngineFailed(TrimtabError):
    """The engine raised while loading or executing a variant."""


class RequestError(TrimtabError):
    """Base of what a client did wrong or cannot have now."""


class InvalidInput(RequestError):
    """The request is malformed: wrong name, dtype, shape, size or encoding."""


class UnknownModel(RequestError):
    """No model of that name or version is in the catalog."""


class UnknownBudget(RequestError):
    """No budget of that name is configured."""


class Conflict(RequestError):
    """The request contradicts what is in force (a pin, a quarantine, a policy); the message says what to undo first."""


class UnknownRegion(RequestError):
    """No shared-memory region of that name is registered."""


class AlreadyThere(RequestError):
    """Something of that name is there already; the message says what to do first."""


class Unsupported(RequestError):
    """Part of the protocol that this server, model or setting does not offer; the message says what to use instead."""


class TooLarge(RequestError):
    """The request body exceeds the configured limit (bytes)."""


class Unavailable(RequestError):
    """The model cannot answer now (loading failed, unloaded, shutting down).

    `retry_after_seconds` is a hint for the client; None when retrying will not help.
    """

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class QueueFull(Unavailable):
    """The model's bounded queue has no room, or the request could not be answered in time behind those that wait."""


class WishUnmet(RequestError):
    """What the request wishes for (quality, latency, variant) cannot be had now. `available` says what can: one mapping
    for each variant in force, with model, variant, quality and expected_latency_seconds. `retry_after_seconds` when it
    is only the queue that stands in the way."""

    def __init__(
        self, message: str, *, available: Sequence[Mapping[str, Any]] = (), retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.available = tuple(available)
        self.retry_after_seconds = retry_after_seconds


class DeadlineExceeded(RequestError):
    """The request's deadline passed before a result was there; expired work is not run."""
