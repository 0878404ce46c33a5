"""A token bucket: so many requests per second on average, and a burst of as many as one second allows."""

from __future__ import annotations


class TokenBucket:
    """Starts full. Time is an argument (seconds, of any clock that does not go back)."""

    __slots__ = ("_at", "_capacity", "_level", "_rate")

    def __init__(self, rate: float, *, burst: float | None = None) -> None:
        self._rate = rate
        self._capacity = max(1.0, rate if burst is None else burst)
        self._level = self._capacity
        self._at: float | None = None

    def take(self, now: float) -> float:
        """Take one. 0.0 when there was one, else the seconds until there is; nothing is taken then."""
        elapsed = 0.0 if self._at is None else max(0.0, now - self._at)
        self._level = min(self._capacity, self._level + elapsed * self._rate)
        self._at = now
        if self._level >= 1.0:
            self._level -= 1.0
            return 0.0
        return (1.0 - self._level) / self._rate
