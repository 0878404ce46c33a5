"""What each model's rate will be, from what it was: decided on the past alone, time passed in.

The level is an exponential average that follows at once what chance cannot explain (Poisson arrivals scatter by the root
of their number) and slowly what it can. The rise is the slope of that level; the peak is what the last minutes have
seen, so that a load which comes and goes does not look gone.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from budgets.fleet.highs import Floats


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


class Forecasts:
    """The rates of some models, as arrays in their order. `take` a tick's rates, then ask for what is `expected` and for
    the `peak`."""

    def __init__(self, models: int, terms: Terms | None = None) -> None:
        self.terms = terms or Terms()
        self.level: Floats = np.zeros(models)
        self.rise: Floats = np.zeros(models)
        self._last: float | None = None
        self._highest = _Highest(models)
        self._said: deque[tuple[float, Floats]] = deque()
        self._error: Floats | None = None

    def take(self, now: float, rates: Floats) -> None:
        """Rates (requests per second) over the tick that ends now (seconds)."""
        terms = self.terms
        if self._last is None:
            self.level = rates.astype(np.float64)
        else:
            step = max(1e-9, now - self._last)
            slow = 1.0 - math.exp(-step / terms.smooth)
            before = self.level
            chance = np.sqrt(np.maximum(before, 1.0 / step) / step)
            gain = np.where(rates > before + terms.surprise * chance, max(slow, 0.8), slow)
            self.level = before + gain * (rates - before)
            slope = (self.level - before) / step
            self.rise = self.rise + (1.0 - math.exp(-step / (2 * terms.smooth))) * (slope - self.rise)
            self._judge(now, step)
        self._last = now
        self._said.append((now, self.expected))
        self._highest.push(now, self.level)
        self._highest.forget(now - terms.memory)

    def _judge(self, now: float, step: float) -> None:
        """Compare the level with what was expected of it; how far it was above is remembered by its square."""
        said = None
        while self._said and self._said[0][0] <= now - self.terms.ahead:
            said = self._said.popleft()[1]
        if said is None:
            return
        most = self.terms.surge - 1.0
        off = np.divide(self.level, said, out=np.full_like(said, math.inf), where=said > 0) - 1.0
        above = np.clip(off, 0.0, most)
        before = np.full_like(said, (most / self.terms.cover) ** 2) if self._error is None else self._error
        self._error = before + (1.0 - math.exp(-step / self.terms.errors)) * (above * above - before)

    @property
    def surge(self) -> Floats:
        """The load to have room for, as a multiple of the expected one."""
        terms = self.terms
        if self._error is None:
            return np.full_like(self.level, terms.surge)
        return np.clip(1.0 + terms.cover * np.sqrt(self._error), terms.calm, terms.surge)

    @property
    def expected(self) -> Floats:
        """The rate to come: the level, with its rise where that is more than chance."""
        rise = self.rise * self.terms.ahead
        return self.level + np.where(rise > np.sqrt(np.maximum(self.level, 1.0) / self.terms.smooth), rise, 0.0)

    @property
    def peak(self) -> Floats:
        """The rate to have room for: the highest remembered or a surge of the expected, with what chance adds."""
        return self.with_chance(np.maximum(self.expected * self.surge, self._highest.value))

    def with_chance(self, rate: Floats) -> Floats:
        """A rate with what Poisson arrivals may add to it for a moment."""
        return rate + self.terms.sigmas * np.sqrt(rate / self.terms.burst)


class _Highest:
    """The highest of what was pushed and not yet forgotten, in constant time for each push: a queue of two stacks, each
    with its running maximum."""

    def __init__(self, models: int) -> None:
        self._none: Floats = np.zeros(models)
        self._new: list[tuple[float, Floats]] = []
        self._newest = self._none
        self._old: list[tuple[float, Floats]] = []

    def push(self, at: float, value: Floats) -> None:
        self._new.append((at, value))
        self._newest = np.maximum(self._newest, value)

    def forget(self, before: float) -> None:
        """What was pushed earlier than this."""
        while self._old or self._new:
            if not self._old:
                highest = self._none
                for at, value in reversed(self._new):
                    highest = np.maximum(highest, value)
                    self._old.append((at, highest))
                self._new, self._newest = [], self._none
            if self._old[-1][0] >= before:
                return
            self._old.pop()

    @property
    def value(self) -> Floats:
        return np.maximum(self._old[-1][1], self._newest) if self._old else self._newest
