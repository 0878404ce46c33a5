"""What each model's rate will be, from what it was: decided on the past alone, time passed in.

The level is an exponential average that follows at once what chance cannot explain (Poisson arrivals scatter by the root
of their number; how much more these do is measured) and slowly what it can. The rise is the slope of that level; the peak is
what the last minutes have seen, so that a load which comes and goes does not look gone.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from budgets.fleet.highs import Floats

#: A level that has faded so far, requests per second, is that of a model that nobody asks for.
NOTHING = 1e-9
#: What a rate differs from the one before counts as so many standard deviations at most: a step is not scatter.
OUTLIER = 2.0


@dataclass(frozen=True)
class Terms:
    """Times in seconds. `smooth`: of the level. `surprise`: a rate so many of chance's standard deviations above the
    level is believed at once; `sudden`: share of a slope that is believed where one such rate followed another. `ahead`:
    how far a rise is followed. `memory`: how long a peak is remembered. `lasting`: a rise that has lasted for so long finds
    room for as long again. `burst`: the time in which chance is evened out; `sigmas`: how much of it is planned for,
    `gusts`: how much of what rates scatter beyond it, whose variance is believed up to `wildest` times chance's. `surge`: a
    load so many times the expected one finds room too, where room can be had for little; less, down to `calm`, where the
    load has long exceeded what was expected by less. `errors`: how long that and the scatter are remembered, `cover`: how
    many of its root mean squares are planned for. `further`: loads beyond the peak, as multiples of it and so many standard
    deviations."""

    smooth: float = 5.0
    surprise: float = 3.0
    sudden: float = 0.5
    ahead: float = 5.0
    memory: float = 120.0
    lasting: float = 20.0
    burst: float = 1.0
    sigmas: float = 0.25
    gusts: float = 0.5
    wildest: float = 100.0
    further: tuple[tuple[float, float], ...] = ((1.25, 0.0), (1.6, 1.0), (2.2, 2.0))
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
        self._surprised = np.zeros(models, dtype=bool)
        self._sudden = np.zeros(models, dtype=bool)
        self._levels: deque[tuple[float, Floats]] = deque()
        self._rates: Floats = np.zeros(models)
        #: By model: how many times a Poisson process' the variance of its rates is.
        self.scatter: Floats = np.ones(models)

    def take(self, now: float, rates: Floats) -> None:
        """Rates (requests per second) over the tick that ends now (seconds)."""
        terms = self.terms
        if self._last is None:
            self.level = rates.astype(np.float64)
        else:
            step = max(1e-9, now - self._last)
            slow = 1.0 - math.exp(-step / terms.smooth)
            before = self.level
            chance = np.sqrt(self.scatter * np.maximum(before, 1.0 / step) / step)
            surprised = rates > before + terms.surprise * chance
            self.level = before + np.where(surprised, max(slow, 0.8), slow) * (rates - before)
            slope = (self.level - before) / step
            # One surprise is a step. Two in a row begin a rise: its slope is believed soon, and so is its end.
            self._sudden = (self._sudden & self._rises) | (surprised & self._surprised)
            usual = 1.0 - math.exp(-step / (2 * terms.smooth))
            self.rise = self.rise + np.where(self._sudden, max(usual, terms.sudden), usual) * (slope - self.rise)
            self._surprised = surprised
            self._judge(now, step)
            self._scatters(rates, step)
        self._last = now
        self._rates = rates
        self._levels.append((now, self.level))
        while len(self._levels) > 1 and self._levels[1][0] <= now - terms.lasting:
            self._levels.popleft()
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
        off = np.divide(self.level, said, out=np.full_like(said, math.inf), where=said > NOTHING) - 1.0
        above = np.clip(off, 0.0, most)
        before = np.full_like(said, (most / self.terms.cover) ** 2) if self._error is None else self._error
        self._error = before + (1.0 - math.exp(-step / self.terms.errors)) * (above * above - before)

    def _scatters(self, rates: Floats, step: float) -> None:
        """Half the square of what one rate differs from the one before is their variance, whatever trend they have."""
        terms = self.terms
        poisson = np.maximum((rates + self._rates) / 2.0, 1.0 / step) / step
        seen = (rates - self._rates) ** 2 / (2.0 * poisson)
        seen = np.minimum(seen, OUTLIER**2 * self.scatter)
        made = self.scatter + (1.0 - math.exp(-step / terms.errors)) * (seen - self.scatter)
        self.scatter = np.clip(made, 1.0, terms.wildest)

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
        return self.level + np.where(self._rises, np.minimum(self.rise * self.terms.ahead, self.level), 0.0)

    @property
    def _rises(self) -> npt.NDArray[np.bool_]:
        """By model: its rise is more than chance."""
        chance = np.sqrt(self.scatter * np.maximum(self.level, 1.0) / self.terms.smooth)
        made: npt.NDArray[np.bool_] = self.rise * self.terms.ahead > chance
        return made

    @property
    def lasting(self) -> Floats:
        """Where the level will be if a rise that has lasted, in both halves of that time, lasts as long again."""
        lasted = self.terms.lasting
        if not self._levels or self._levels[-1][0] - self._levels[0][0] < lasted:
            return self.level
        now, begun = self._levels[-1][0], self._levels[0][1]
        middle = next(level for at, level in self._levels if at >= now - lasted / 2)
        rise = 2.0 * np.minimum(middle - begun, self.level - middle)
        return self.level + np.clip(rise, 0.0, self.level)

    @property
    def peak(self) -> Floats:
        """The rate to have room for: what a lasting rise comes to, the highest remembered and a little more, or a surge of
        the expected, whichever is most; with what chance adds."""
        again = self._highest.value * min(self.terms.calm, self.terms.surge)
        return self.with_chance(np.maximum.reduce([self.expected * self.surge, again, self.lasting]))

    @property
    def beyond(self) -> tuple[Floats, ...]:
        """Higher rates, each less likely than the one before."""
        peak = self.peak
        return tuple(times * peak + sigmas * np.sqrt(self.scatter * peak) for times, sigmas in self.terms.further)

    def with_chance(self, rate: Floats) -> Floats:
        """A rate with what Poisson arrivals, and gusts where they scatter more, may add to it for a moment."""
        sigmas = self.terms.sigmas + self.terms.gusts * np.sqrt(self.scatter - 1.0)
        made: Floats = rate + sigmas * np.sqrt(rate / self.terms.burst)
        return made


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
