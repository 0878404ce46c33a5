"""A queueing model: what latency and utilisation to expect of a variant at a rate.

All models of a host share its CPU, which carries c engine calls at once (`streams`); requests arrive at random. That is an M/G/c
queue with several classes: utilisation rho = sum(rate x service) / c; a request waits with probability P = rho ** (sqrt(2 (c + 1)) - 1)
(Sakasegawa's approximation; rho for c = 1), and one that waits does so for V = sum(rate x E[service^2]) / (2 c^2 rho (1 - rho)) in
the mean (Pollaczek-Khinchine for c = 1); the tail of the wait is taken as exponential, P(wait > t) = P exp(-t / V), and a request's
latency as its wait plus its own service at the tail. A call that takes w of the c (`Load.width`) is w times the work.
Sources: Kleinrock, "Queueing Systems" I (1975), 5; Harchol-Balter, "Performance Modeling" (2013), 23; Sakasegawa, "An approximation
formula Lq = alpha rho^beta / (1 - rho)", Annals of the Institute of Statistical Mathematics 29 (1977).

Service times come from profiles, corrected by what was observed: `correction`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from variants.catalog import Profile

#: Transport, parsing and hand-over around an engine call, seconds.
OVERHEAD = 0.002
#: How long an engine call is held up at most by others' turns on the cores, whatever its own length, seconds. (Of eight
#: variants of three models, whose calls take 0.9 to 10 ms by their profiles, most took 1 to 5 ms more on two cores that
#: carried HAProxy and the clients too, the shortest no less than the longest.)
HELD_UP = 0.004
#: Observed service / profiled service is believed within these bounds.
CORRECTION = (0.5, 4.0)


@dataclass(frozen=True)
class Load:
    """One model's load on one host: requests per second, seconds of service for one request (mean and tail), and how many of the
    host's streams a call takes."""

    rate: float
    mean: float
    tail: float
    width: int = 1


def service(profile: Profile, *, factor: float = 1.0) -> tuple[float, float]:
    """Mean and tail (p99) seconds of a call with one sample, times the correction `factor`."""
    first = profile.smallest
    return first.p50_seconds * factor, first.p99_seconds * factor


def correction(observed_seconds: float, profile: Profile) -> float:
    """How much slower (or faster) than its profile the variant in force runs here, within bounds."""
    expected = (
        min(b.p50_seconds / b.batch for b in profile.batches),
        max(b.p50_seconds / b.batch for b in profile.batches),
    )
    if observed_seconds > expected[1] > 0:
        return min(CORRECTION[1], observed_seconds / expected[1])
    if 0 < observed_seconds < expected[0]:
        return max(CORRECTION[0], observed_seconds / expected[0])
    return 1.0


def call_seconds(profile: Profile) -> float:
    """Engine seconds for one sample at the batch size where that is most."""
    return max(b.p50_seconds / b.batch for b in profile.batches)


def utilisation(loads: Mapping[str, Load], streams: int = 1) -> float:
    """Share of the time of a host's `streams` that engine calls take; 1 and more is overload."""
    return sum(busy(load) for load in loads.values()) / streams


def busy(load: Load) -> float:
    """Streams that it keeps busy, in the mean."""
    return load.rate * load.mean * load.width


def second_moment(load: Load) -> float:
    """rate x E[service^2], of a service time between its mean and its tail; deterministic service would be mean^2. A call that
    takes several streams counts as that much longer: with all of them it is a single server's."""
    return load.rate * load.mean * max(load.mean, (load.mean + load.tail) / 2) * load.width**2


def quantile(loads: Mapping[str, Load], model: str, q: float, streams: int = 1) -> float:
    """Predicted latency in seconds of a model's requests at quantile `q`, given all models' loads on the host.

    Infinite when the host is overloaded. Where few long calls run among many short ones it is too low at high quantiles.
    """
    second = sum(second_moment(load) for load in loads.values())
    return tail_of(loads[model].tail, utilisation(loads, streams), second, q, streams)


def tail_of(tail: float, rho: float, second: float, q: float, streams: int = 1) -> float:
    """The same of a service time's `tail` on a host with the utilisation `rho` and the sum of `second_moment`s."""
    own = tail + OVERHEAD
    if rho >= 1.0:
        return math.inf
    waits = rho ** (math.sqrt(2.0 * (streams + 1)) - 1.0) if rho > 0.0 else 0.0
    if waits <= 1.0 - q:
        return own
    wait = second / (2.0 * streams * streams * rho * (1.0 - rho))
    return own + max(0.0, wait * math.log(waits / (1.0 - q)))
