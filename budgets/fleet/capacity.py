"""How much of a model one host can serve within its objective, and at what batch limit.

A request that just missed a batch waits for one call and then takes one itself: while 2 x seconds(batch) stays within
the objective, a host may run full batches of that size back to back. (The bound that Nexus uses: Shen et al., SOSP 2019,
section 4.1; Proteus plans with the same one: Ahmad et al., ASPLOS 2024.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from budgets.fleet.world import Group, Rung

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
    best: Capacity | None = None
    largest = rung.within(slo_seconds / 2)
    # Between profiled sizes seconds are linear, so the best throughput is at one of them or at the largest allowed.
    # Of equally good ones the smaller, which answers sooner.
    for batch in sorted({largest, *(b for b, _ in rung.batches if b < largest)} - {0}):
        seconds = rung.seconds(batch)
        if best is None or batch / seconds > (1 + 1e-9) / best.seconds:
            best = Capacity(group.streams * batch / seconds, seconds / batch, batch)
    if best is None and rung.seconds(1) <= slo_seconds:
        share = TIGHT_SHARE * min(1.0, max(0.1, slo_seconds / rung.seconds(1) - 1.0))
        best = Capacity(group.streams * share / rung.seconds(1), rung.seconds(1) / share, 1)
    return best if best is None or math.isfinite(best.rate) else None


def in_company(rung: Rung, group: Group, slo_seconds: float) -> Capacity | None:
    """The same of a host that other models use, too. Of several hosts no model has one for itself, and none is so busy that a
    request finds long calls before it: the longer a model's own are in its objective, the more of a stream's time is planned
    for them. Even so a call that takes most of the objective is best not run there (`tight`)."""
    objective = slo_seconds * 2.0 / (2.0 + OTHERS / group.streams)
    found = capacity(rung, group, objective) or capacity(rung, group, slo_seconds)
    if found is None or group.count == 1:
        return found
    call = rung.seconds(found.batch)
    waits = call / (slo_seconds - call) / group.streams if call < slo_seconds else math.inf
    more = 1.0 + min(WAITS_AT_MOST, waits)
    rate = found.rate * group.streams / (group.streams + COMPANY)
    return replace(found, rate=rate, seconds=found.seconds * more)


def tight(rung: Rung, group: Group, slo_seconds: float) -> bool:
    """A call on a host that others use is too long to be planned back to back with another."""
    return rung.seconds(1) > slo_seconds / (2.0 + OTHERS / group.streams)
