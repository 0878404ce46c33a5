"""Who is let into a queue, who is not, and who has to leave it."""

from __future__ import annotations

from deployments.batching import Pending
from deployments.foresight import Foresight
from deployments.waiting import Waiting
from variants.errors import QueueFull

#: What a client is told to wait before it tries a full queue again, where the queue's pace is not known.
QUEUE_FULL_RETRY_SECONDS = 1.0


def in_time(
    model: str, foresight: Foresight, queue: Waiting, expected: float | None, priority: int, timeout: float
) -> None:
    """Raises QueueFull for a request with `timeout` seconds left whose answer is `expected` too near to that or later."""
    if expected is not None and expected > foresight.share * timeout:
        raise QueueFull(
            f"model {model!r}: an answer is expected in {expected:.3g} s behind {queue.ahead(priority)} rows that wait, "
            f"too near to the deadline of {timeout:.3g} s or beyond it",
            retry_after_seconds=expected - foresight.share * timeout,
        )


def gives_way(model: str, foresight: Foresight, queue: Waiting, priority: int) -> Pending:
    """Who leaves a full queue for a request of that priority. Raises QueueFull when nobody waits who is less important."""
    least = queue.least()
    if least is None or least.priority <= priority:
        raise QueueFull(
            f"model {model!r}: {queue.count} requests wait already, no more are accepted",
            retry_after_seconds=_retry(foresight, queue),
        )
    return least


def displaced(model: str, foresight: Foresight, queue: Waiting) -> QueueFull:
    """What the one that leaves is told."""
    message = f"model {model!r}: the queue is full, and a request of higher priority came"
    return QueueFull(message, retry_after_seconds=_retry(foresight, queue))


def _retry(foresight: Foresight, queue: Waiting) -> float:
    """When half of what waits will be gone."""
    return max(QUEUE_FULL_RETRY_SECONDS, queue.rows * foresight.pace.drain / 2)
