"""What each model's rate will be, from what it was: decided on the past alone, time passed in.

The level is an exponential average of the last ticks; the rise is the slope of that level, so that a single spike moves
it little; the peak is what the last minutes have seen, so that a load which comes and goes does not look gone. To the
forecast comes what Poisson arrivals may bring by chance in the window that a host has to work off a burst.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Terms:
    """Times in seconds. `ahead`: how far a rise is followed. `memory`: how long a peak is remembered. `burst`: the time
    in which chance is evened out; `sigmas`: how much of it is planned for."""

    smooth: float = 4.0
    ahead: float = 6.0
    memory: float = 60.0
    burst: float = 1.0
    sigmas: float = 2.0


@dataclass
class Forecast:
    """One model's rate. `take` a tick's rate, then ask for `demand`."""

    terms: Terms = Terms()
    level: float | None = None
    rise: float = 0.0
    _last: float = 0.0
    _peaks: deque[tuple[float, float]] = field(default_factory=deque)

    def take(self, now: float, rate: float) -> None:
        """A rate (requests per second) over the tick that ends now (seconds)."""
        if self.level is None:
            self.level = rate
        else:
            step = max(1e-9, now - self._last)
            gain = 1.0 - math.exp(-step / self.terms.smooth)
            before = self.level
            self.level += gain * (rate - self.level)
            self.rise += gain * ((self.level - before) / step - self.rise)
        self._last = now
        while self._peaks and self._peaks[-1][1] <= self.level:
            self._peaks.pop()
        self._peaks.append((now, self.level))
        while self._peaks[0][0] < now - self.terms.memory:
            self._peaks.popleft()

    @property
    def expected(self) -> float:
        """The rate to come: the level with its rise, or the rate of now where that is more."""
        return max(0.0, (self.level or 0.0) + max(0.0, self.rise) * self.terms.ahead)

    @property
    def peak(self) -> float:
        """The highest level remembered."""
        return self._peaks[0][1] if self._peaks else 0.0

    def demand(self, *, share_of_peak: float = 1.0) -> float:
        """The rate to plan for."""
        rate = max(self.expected, share_of_peak * self.peak)
        return rate + self.terms.sigmas * math.sqrt(rate / self.terms.burst)
