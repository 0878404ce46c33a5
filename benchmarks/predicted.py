"""What the controller predicts of a swap against what is then measured, on real models under load: bytes and latency.

    python -m benchmarks.predicted [--repository examples/models] [--busy 0.5] [--seconds 20] [--model minilm ...]

Serves the repository, sends every model Poisson traffic that keeps one core `busy` at the best rungs' cost, then pins each
model with several rungs to each of them, one swap at a time. For each swap: the bytes it was planned to move against what
the host measured and the server's processes show from outside (USS); and the 99th percentile predicted for the new variant,
before it ran, against what the server's histogram and the clients themselves then saw over `--seconds`. `held` is the level that
a budget is compared with: what the controller read before the swap and the move that it planned, against what it read afterwards.

A percentile of few requests is itself uncertain: beside it stands the interval that holds the true one in 95 of 100 such
measurements, and a prediction within 30 % of some value in it is not refuted by that measurement. Two things can be wrong
with a prediction: the queueing model, or what it was told of a variant that had not run here. `then` is what the same
model says once the variant has run for as long, told how long its calls take now.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import psutil
import yaml
from scipy.stats import binom

from budgets.journal import records
from budgets.latency import service
from budgets.plan import Verdict
from deployments.agenda import needs
from examples.demo.measure import p99
from examples.demo.processes import DemoFailed, Server, Traffic
from server.client import AdminClient
from server.cluster import free_ports
from variants.catalog import Catalog
from variants.process import held
from variants.repository import load_catalog

MIB = 2**20
#: The budget for all memory.
BUDGET = "ram"
#: A swap must move so much for its share of error to mean anything beside the heap's own noise.
LEAST_BYTES = 16 * MIB
#: A model gets so many requests per second at least and at most.
RATES = (5.0, 20.0)
#: How far off a predicted percentile may be.
WANTED = 0.3
#: Seconds of requests that are taken together, and how often they are drawn.
BLOCK, DRAWS = 2.0, 400


@dataclass(frozen=True)
class Row:
    """One swap. Bytes in the swap's own direction; seconds at the 99th percentile; None: not known."""

    model: str
    swap: str
    bytes_predicted: int
    bytes_measured: int | None
    bytes_outside: int
    held_predicted: float | None
    held: float | None
    predicted: float | None
    server: float | None
    clients: float | None
    interval: tuple[float, float] | None
    requests: int
    then: float | None
    service_predicted: float | None
    service: float | None

    @property
    def bytes_error(self) -> float | None:
        """Share by which the prediction was off; None for small moves."""
        if self.bytes_measured is None or max(self.bytes_predicted, self.bytes_measured) < LEAST_BYTES:
            return None
        return self.bytes_predicted / max(1, self.bytes_measured) - 1.0

    @property
    def held_error(self) -> float | None:
        """Share by which the memory held after the swap was predicted wrongly."""
        return None if not self.held or self.held_predicted is None else self.held_predicted / self.held - 1.0

    @property
    def latency_error(self) -> float | None:
        """Share by which the predicted percentile missed the one the server saw."""
        return None if self.predicted is None or not self.server else self.predicted / self.server - 1.0

    @property
    def refuted(self) -> bool | None:
        """No value that the measured percentile may truly have is within `WANTED` of the prediction."""
        if self.predicted is None or self.interval is None:
            return None
        low, high = self.interval
        return self.predicted < low * (1 - WANTED) or self.predicted > high * (1 + WANTED)


def interval(answers: Sequence[tuple[float, float]], q: float = 0.99, sure: float = 0.95) -> tuple[float, float] | None:
    """Bounds of the quantile `q` of latencies, given as (time, seconds), that hold with probability `sure`: the wider of two
    at either end. Of independent requests the number below the quantile is binomial. Requests that waited for the same call
    are not independent, so blocks of `BLOCK` seconds are drawn anew too (Künsch 1989). Infinite where even the slowest
    request is not sure to be beyond it; None of nothing."""
    if not answers:
        return None
    values = sorted(seconds for _, seconds in answers)
    low, high = (int(binom.ppf(p, len(values), q)) for p in ((1 - sure) / 2, (1 + sure) / 2))
    blocks: dict[int, list[float]] = {}
    for at, seconds in answers:
        blocks.setdefault(int(at // BLOCK), []).append(seconds)
    parts, draw = list(blocks.values()), random.Random(0)
    again = sorted(p99(list(chain.from_iterable(draw.choices(parts, k=len(parts))))) or 0.0 for _ in range(DRAWS))
    below, above = again[int((1 - sure) / 2 * DRAWS)], again[int((1 + sure) / 2 * DRAWS)]
    return min(values[max(0, low - 1)], below), max(values[high], above) if high < len(values) else math.inf


def rates(catalog: Catalog, busy: float) -> dict[str, float]:
    """Requests per second for each model, so that together they take `busy` of the time when each runs its best rung."""
    cost = {}
    for name, entry in catalog.entries.items():
        profile = entry.variant(entry.ladder.rungs[0]).profile(catalog.device) if entry.ladder.rungs else None
        if profile is not None:
            cost[name] = service(profile)[0]
    return {name: min(RATES[1], max(RATES[0], busy / len(cost) / seconds)) for name, seconds in cost.items()}


def kept(pid: int) -> int:
    """Bytes that a process and its descendants hold (`variants.process.held`)."""
    total = 0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with contextlib.suppress(OSError):
            total += held(process.pid)
    return total


def settings(repository: Path, folder: Path, catalog: Catalog, seconds: float) -> tuple[Path, Mapping[str, int]]:
    """The configuration to serve, and its ports by name: wide budgets, so that nothing moves but what is asked for."""
    http, grpc, admin = free_ports(3)
    ports = {"http_port": http, "grpc_port": grpc, "admin_port": admin}
    document = {
        "repository": str(repository.resolve()),
        "server": {"host": "127.0.0.1", **ports},
        "controller": {
            "tick_seconds": 0.5,
            "window_seconds": seconds,
            "verify_seconds": seconds + 3,
            "cooldown_seconds": 1,
            "journal": str(folder / "journal.jsonl"),
        },
        "budgets": [{"name": BUDGET, "resource": "ram", "scope": "trimtab", "limit": "16GiB"}],
        "models": {name: {"slo": {"latency_seconds": 10.0}} for name in catalog.entries},
    }
    path = folder / "trimtab.yaml"
    path.write_text(yaml.safe_dump(document))
    return path, ports


class Run:
    """A server under traffic, and the swaps asked of it."""

    def __init__(self, server: Server, admin: AdminClient, traffic: Traffic, journal: Path, seconds: float) -> None:
        self._server, self._admin, self._traffic, self._seconds = server, admin, traffic, seconds
        self._journal = journal

    def swap(self, model: str, variant: str, *, smaller: bool) -> Row:
        """Pin the model to the variant, which is `smaller` than the one in force, and wait for the verdict. Raises DemoFailed
        when none comes."""
        before, asked = kept(self._server.pid), time.time()
        self._admin.post("pin", model=model, variant=variant)
        verdict, then = self._verdict(model, variant, asked)
        now = time.time()
        grown = kept(self._server.pid) - before
        since, until = max(asked, now - self._seconds), now - 1.0
        seen = [(a.due, a.seconds) for a in self._traffic.answers if a.model == model and since <= a.due < until]
        held, after = (u.get(BUDGET) for u in (verdict.usage_before, verdict.usage_after))
        moved = -verdict.bytes_predicted if smaller else verdict.bytes_predicted
        return Row(
            model=model,
            swap=f"{verdict.from_variant} -> {variant}",
            bytes_predicted=verdict.bytes_predicted,
            bytes_measured=verdict.bytes_measured,
            bytes_outside=-grown if smaller else grown,
            held_predicted=None if held is None else held + moved,
            held=after,
            predicted=verdict.latency_predicted,
            server=verdict.latency_observed,
            clients=p99([seconds for _, seconds in seen]),
            interval=interval(seen),
            requests=len(seen),
            then=then,
            service_predicted=verdict.service_predicted,
            service=verdict.service_observed,
        )

    def _verdict(self, model: str, variant: str, asked: float) -> tuple[Verdict, float | None]:
        """The verdict on a swap, and what was predicted of the variant when it had run for the whole window."""
        deadline = time.monotonic() + self._seconds + 60.0
        while time.monotonic() < deadline:
            self._server.check()
            self._traffic.check()
            for decision in records(self._journal):
                for verdict in decision.verdicts if decision.at > asked else ():
                    if (verdict.model, verdict.to_variant) == (model, variant):
                        return verdict, next(
                            (c.predicted for c in decision.latency if (c.model, c.variant) == (model, variant)), None
                        )
            time.sleep(0.5)
        raise DemoFailed(f"no verdict on {model} -> {variant}")


def measure(repository: Path, busy: float, seconds: float, models: Sequence[str]) -> list[Row]:
    """Serve, load, swap each model down its ladder and back to its top. Raises DemoFailed."""
    catalog = load_catalog(repository)
    rows = []
    with tempfile.TemporaryDirectory(prefix="trimtab-predicted-") as name:
        folder = Path(name)
        config, ports = settings(repository, folder, catalog, seconds)
        server = Server(config, folder / "server.log")
        traffic = None
        try:
            _until("the server is ready", server.ready)
            admin = AdminClient(f"http://127.0.0.1:{ports['admin_port']}")
            traffic = Traffic(
                http=f"127.0.0.1:{ports['http_port']}",
                grpc=f"127.0.0.1:{ports['grpc_port']}",
                models=repository,
                log=folder / "traffic.log",
            )
            _until("the traffic is ready", lambda: traffic is not None and traffic.ready)
            traffic.set_rates(rates(catalog, busy))
            time.sleep(seconds)
            run = Run(server, admin, traffic, folder / "journal.jsonl", seconds)
            for model in models or sorted(catalog.entries):
                entry = catalog.entries[model]
                rungs = entry.ladder.rungs
                for last, variant in pairwise((*rungs, rungs[0])) if len(rungs) > 1 else ():
                    before, after = (needs(entry, catalog.device, rung) for rung in (last, variant))
                    rows.append(run.swap(model, variant, smaller=after < before))
                    print(line(rows[-1]), flush=True)
            traffic.stop()
            if traffic.failures:
                raise DemoFailed(f"{len(traffic.failures)} requests failed, first {traffic.failures[0]}")
        finally:
            if traffic is not None and not traffic.done:
                traffic.end(5.0)
            server.stop()
    return rows


def line(row: Row) -> str:
    """One row of the table."""

    def share(x: float | None) -> str:
        return "" if x is None else f"{x:+.0%}"

    def ms(x: float | None) -> str:
        return "" if x is None else f"{x * 1e3:.1f}"

    def mib(x: float | None) -> str:
        return "" if x is None else f"{x / MIB:.0f}"

    cells = [row.model, row.swap, mib(row.bytes_predicted), mib(row.bytes_measured), mib(row.bytes_outside)]
    cells += [share(row.bytes_error), mib(row.held_predicted), mib(row.held), share(row.held_error)]
    cells += [ms(row.predicted), ms(row.server), ms(row.clients), share(row.latency_error)]
    bounds = "" if row.interval is None else " to ".join("?" if math.isinf(x) else ms(x) for x in row.interval)
    cells += [str(row.requests), bounds, {None: "", False: "", True: "refuted"}[row.refuted]]
    cells += [ms(row.then), ms(row.service_predicted), ms(row.service)]
    return "| " + " | ".join(cells) + " |"


def _until(what: str, condition: Any, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise DemoFailed(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.1)


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description="Predicted against measured: bytes and latency of swaps, under load.")
    parser.add_argument("--repository", type=Path, default=Path("examples/models"))
    parser.add_argument("--busy", type=float, default=0.5, help="share of the time that engine calls take")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each variant is measured")
    parser.add_argument("--model", nargs="*", default=[], help="swap these alone; all get their traffic")
    options = parser.parse_args()
    print(
        "| model | swap | MiB planned | MiB measured | MiB outside | off | MiB held planned | measured "
        "| off | p99 ms predicted | server | clients | off | requests | 95 % interval | | then | call ms predicted | measured |"
    )
    print("|" + "---|" * 19)
    try:
        rows = measure(options.repository, options.busy, options.seconds, options.model)
    except DemoFailed as error:
        sys.exit(f"benchmarks.predicted: {error}")
    for what, errors in (
        ("bytes", [abs(r.bytes_error) for r in rows if r.bytes_error is not None]),
        ("bytes held", [abs(r.held_error) for r in rows if r.held_error is not None]),
        ("p99", [abs(r.latency_error) for r in rows if r.latency_error is not None]),
    ):
        if errors:
            print(f"{what}: median error {statistics.median(errors):.0%}, worst {max(errors):.0%}, of {len(errors)}")
    refuted = [r.refuted for r in rows if r.refuted is not None]
    print(f"p99: {sum(refuted)} of {len(refuted)} further off than {WANTED:.0%} by more than chance")


if __name__ == "__main__":
    main()
