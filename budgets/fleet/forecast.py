"""What each model's rate will be, from what it was: decided on the past alone, time passed in.

The level is an exponential average that follows at once what chance cannot explain (Poisson arrivals scatter by the root
of their number) and slowly what it can. The rise is the slope of that level; the peak is what the last minutes have
seen, so that a load which comes and goes does not look gone.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Terms:
    """Times in seconds. `smooth`: of the level. `surprise`: a rate so many of chance's standard deviations above the
    level is believed at once. `ahead`: how far a rise is followed. `memory`: how long a peak is remembered. `burst`: the
    time in which chance is evened out; `sigmas`: how much of it is planned for. `surge`: a load so many times the
    expected one finds room too, where room can be had for little; less, down to `calm`, where the load has long exceeded
    what was expected by less. `errors`: how long that is remembered, `cover`: how many of its root mean squares are
    planned for."""

    smooth: float = 5.0
    surprise: float = 3.0
    ahead: float = 5.0
    memory: float = 120.0
    burst: float = 1.0
    sigmas: float = 0.25
    surge: float = 1.2
    calm: float = 1.08
    errors: float = 60.0
    cover: float = 3.0


@dataclass
class Forecast:
    """One model's rate. `take` a tick's rate, then ask for what is `expected` and for the `peak`."""

    terms: Terms = Terms()
    level: float | None = None
    rise: float = 0.0
    _last: float = 0.0
    _peaks: deque[tuple[float, float]] = field(default_factory=deque)
    _said: deque[tuple[float, float]] = field(default_factory=deque)
    _error: float | None = None

    def take(self, now: float, rate: float) -> None:
        """A rate (requests per second) over the tick that ends now (seconds)."""
        if self.level is None:
            self.level = rate
        else:
            step = max(1e-9, now - self._last)
            gain = 1.0 - math.exp(-step / self.terms.smooth)
            before = self.level
            chance = math.sqrt(max(before, 1.0 / step) / step)
            if rate > before + self.terms.surprise * chance:
                gain = max(gain, 0.8)
            self.level += gain * (rate - before)
            slope = (self.level - before) / step
            self.rise += (1.0 - math.exp(-step / (2 * self.terms.smooth))) * (slope - self.rise)
            self._judge(now, step)
        self._last = now
        self._said.append((now, self.expected))
        while self._peaks and self._peaks[-1][1] <= self.level:
            self._peaks.pop()
        self._peaks.append((now, self.level))
        while self._peaks[0][0] < now - self.terms.memory:
            self._peaks.popleft()

    def _judge(self, now: float, step: float) -> None:
        """Compare the level with what was expected of it; how far it was above is remembered by its square."""
        said = None
        while self._said and self._said[0][0] <= now - self.terms.ahead:
            said = self._said.popleft()[1]
        if said is None:
            return
        most = self.terms.surge - 1.0
        above = min(most, max(0.0, (self.level or 0.0) / said - 1.0)) if said > 0 else most
        before = (most / self.terms.cover) ** 2 if self._error is None else self._error
        self._error = before + (1.0 - math.exp(-step / self.terms.errors)) * (above * above - before)

    @property
    def surge(self) -> float:
        """The load to have room for, as a multiple of the expected one."""
        if self._error is None:
            return self.terms.surge
        return min(self.terms.surge, max(self.terms.calm, 1.0 + self.terms.cover * math.sqrt(self._error)))

    @property
    def expected(self) -> float:
        """The rate to come: the level, with its rise where that is more than chance."""
        level = self.level or 0.0
        rise = self.rise * self.terms.ahead
        return level + (rise if rise > math.sqrt(max(level, 1.0) / self.terms.smooth) else 0.0)

    @property
    def peak(self) -> float:
        """The rate to have room for: the highest remembered or a surge of the expected, with what chance adds."""
        rate = max(self.expected * self.surge, self._peaks[0][1] if self._peaks else 0.0)
        return self.with_chance(rate)

    def with_chance(self, rate: float) -> float:
        """A rate with what Poisson arrivals may add to it for a moment."""
        return rate + self.terms.sigmas * math.sqrt(rate / self.terms.burst)
