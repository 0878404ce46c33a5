"""How much of a model one host can serve within its objective, and at what batch limit.

A request that just missed a batch waits for one call and then takes one itself: while 2 x seconds(batch) stays within
the objective, a host may run full batches of that size back to back. (The bound that Nexus uses: Shen et al., SOSP 2019,
section 4.1; Proteus plans with the same one: Ahmad et al., ASPLOS 2024.) That is what hosts can do; it is not what they can be
asked for, as requests do not come evenly: a host that takes them one by one, each for half of the objective, is late with one in a
hundred when it is busy a seventh of its time (`dependable`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from budgets.fleet.world import Group, Rung

#: Batches are tried whose calls take so large parts of the objective: 1 / 2 and less.
RATIOS = (2.0, 2.5, 3.0, 4.0)
#: A host that could be so busy all the time counts whole: what is planned is not asked for all the time, and `budgets.fleet.table`
#: leaves some of it to chance in any case.
ALL = 0.85
#: A variant whose single call takes most of the objective leaves no room to wait: planned with this share of a host.
TIGHT_SHARE = 0.3
#: Where other models use a host, too, a request may wait for a call of theirs: for so much of it, spread over the streams, as
#: fits with two of its own.
OTHERS = 0.5
#: Of what one of several such hosts can do no model is planned to take more than streams / (streams + COMPANY): plans add up
#: what hosts of a kind can do, and do not say what each of them runs beside it.
COMPANY = 1.5
#: A stream's time that is planned for a call is at most so many times more than it takes.
WAITS_AT_MOST = 3.0


@dataclass(frozen=True)
class Capacity:
    """`rate`: requests per second of one host that serves nothing else. `seconds`: of a host's stream for one request.
    `batch`: the limit under which both hold."""

    rate: float
    seconds: float
    batch: int


def capacity(rung: Rung, group: Group, slo_seconds: float) -> Capacity | None:
    """The most a host of the group can serve; None when even a single request cannot meet the objective."""
    best, each = 0, math.inf
    largest = rung.within(slo_seconds / 2)
    # Between profiled sizes seconds are linear, so the best throughput is at one of them or at the largest allowed.
    # Of equally good ones the smaller, which answers sooner.
    for batch in (*[b for b, _ in rung.batches if b < largest], largest) if largest else ():
        seconds = rung.seconds(batch)
        if not best or batch / seconds > (1 + 1e-9) / each:
            best, each = batch, seconds / batch
    call, share = rung.seconds(best or 1), 1.0
    if not best:
        if call > slo_seconds:
            return None
        best, share = 1, TIGHT_SHARE * min(1.0, max(0.1, slo_seconds / call - 1.0))
        each = call / share
    rate = group.streams * best * share / call
    return Capacity(rate, each, best) if math.isfinite(rate) else None


def dependable(rung: Rung, group: Group, slo_seconds: float) -> Capacity | None:
    """What of it a host serves with hardly a request late, at the batch limit that leaves most: calls of few requests that take
    much of their objective leave a queue no time to shrink again."""
    whole = capacity(rung, group, slo_seconds)
    if whole is None or math.isinf(slo_seconds):
        return whole
    sizes = {b for b, s in rung.batches if s <= slo_seconds / 2} | {rung.within(slo_seconds / r) for r in RATIOS} | {1}
    best: Capacity | None = None
    for batch in sorted(sizes - {0}):
        call = rung.seconds(batch)
        share = min(1.0, steady(rung, batch, slo_seconds, group.streams) / ALL)
        rate = group.streams * batch / call * share
        if rate > 0.0 and (best is None or rate > (1 + 1e-9) * best.rate):
            best = Capacity(rate, group.streams / rate, batch)
    return best


def steady(rung: Rung, batch: int, slo_seconds: float, streams: int = 1) -> float:
    """The share of what back-to-back calls of a batch could serve at which a hundredth of Poisson arrivals misses the objective:
    fitted to what was simulated of one stream (tests/budgets/fleet/test_capacity.py), within 0.13 of it and 0.04 in the mean. Of
    several streams one is free so many times sooner."""
    call = rung.seconds(batch)
    if call >= slo_seconds:
        return 0.0
    # How much of a call is there whatever its size: then smaller batches do not shrink the queue sooner.
    fixed = min(1.0, max(0.0, (batch - call / rung.seconds(1)) / (batch - 1))) if batch > 1 else 0.0
    waiting = streams * (slo_seconds / call - 1.0) * batch * math.exp(-1.12 * fixed * (1.0 - 1.0 / batch))
    return 1.0 / (1.0 + (2.16 / waiting) ** 1.6) if waiting > 0.0 else 0.0


def in_company(rung: Rung, group: Group, slo_seconds: float) -> Capacity | None:
    """The same of a host that other models use, too. Of several hosts no model has one for itself, and none is so busy that a
    request finds long calls before it: the longer a model's own are in its objective, the more of a stream's time is planned
    for them. Even so a call that takes most of the objective is best not run there (`tight`)."""
    objective = 2.0 * _longest(group, slo_seconds)
    found = capacity(rung, group, objective) or capacity(rung, group, slo_seconds)
    if found is None or group.count == 1:
        return found
    call = rung.seconds(found.batch)
    waits = call / (slo_seconds - call) / group.streams if call < slo_seconds else math.inf
    more = 1.0 + min(WAITS_AT_MOST, waits)
    rate = found.rate * group.streams / (group.streams + COMPANY)
    return Capacity(rate, found.seconds * more, found.batch)


def tight(rung: Rung, group: Group, slo_seconds: float) -> bool:
    """A call on a host that others use is too long to be planned back to back with another."""
    return rung.seconds(1) > _longest(group, slo_seconds)


def _longest(group: Group, slo_seconds: float) -> float:
    """Seconds that a call may take for two of them, and the wait for another model's, to be within the objective."""
    return slo_seconds / (2.0 + OTHERS / group.streams)
