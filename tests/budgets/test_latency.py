"""The queueing model against a simulated queue."""

from __future__ import annotations

import heapq
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgets.latency import CORRECTION, OVERHEAD, Load, correction, quantile, service, utilisation
from variants.catalog import BatchProfile, Profile


def profile(*batches: tuple[int, float]) -> Profile:
    made = tuple(BatchProfile(batch=n, p50_seconds=s, p99_seconds=1.5 * s, throughput=n / s) for n, s in batches)
    return Profile(device="d", threads=1, resident_bytes=1, load_seconds=0, warmup_seconds=0, batches=made, quality=1.0)


def simulate(
    classes: dict[str, tuple[float, float]], requests: int, seed: int, streams: int = 1
) -> dict[str, list[float]]:
    """So many servers, first come first served, Poisson arrivals of each class at (rate, seconds of service)."""
    rng = random.Random(seed)
    arrivals = [(rng.expovariate(rate), name) for name, (rate, _) in classes.items()]
    heapq.heapify(arrivals)
    free, taken = [0.0] * streams, {name: [] for name in classes}
    for _ in range(requests):
        at, name = heapq.heappop(arrivals)
        rate, seconds = classes[name]
        ended = max(free[0], at) + seconds
        heapq.heapreplace(free, ended)
        taken[name].append(ended - at)
        heapq.heappush(arrivals, (at + rng.expovariate(rate), name))
    return taken


@pytest.mark.parametrize("rho", [0.3, 0.5, 0.7, 0.85])
@pytest.mark.parametrize("q", [0.9, 0.99])
def test_one_model_alone(rho: float, q: float) -> None:
    seconds = 0.01
    seen = sorted(simulate({"m": (rho / seconds, seconds)}, 60_000, seed=1)["m"])
    predicted = quantile({"m": Load(rho / seconds, seconds, seconds)}, "m", q) - OVERHEAD
    assert predicted == pytest.approx(seen[int(q * len(seen))], rel=0.25)


@pytest.mark.parametrize("rho", [0.4, 0.7])
def test_two_models_share_the_host(rho: float) -> None:
    classes = {"slow": (0.5 * rho / 0.04, 0.04), "fast": (0.5 * rho / 0.004, 0.004)}
    seen = simulate(classes, 120_000, seed=2)
    loads = {name: Load(rate, seconds, seconds) for name, (rate, seconds) in classes.items()}
    assert utilisation(loads) == pytest.approx(rho)
    for name in classes:
        ordered = sorted(seen[name])
        predicted = quantile(loads, name, 0.99) - OVERHEAD
        assert predicted == pytest.approx(ordered[int(0.99 * len(ordered))], rel=0.35)


@pytest.mark.parametrize("streams", [2, 4])
@pytest.mark.parametrize("rho", [0.3, 0.6, 0.85])
def test_several_calls_at_once(rho: float, streams: int) -> None:
    classes = {"slow": (0.5 * streams * rho / 0.02, 0.02), "fast": (0.5 * streams * rho / 0.008, 0.008)}
    seen = simulate(classes, 120_000, seed=3, streams=streams)
    loads = {name: Load(rate, seconds, seconds) for name, (rate, seconds) in classes.items()}
    assert utilisation(loads, streams) == pytest.approx(rho)
    for name in classes:
        ordered = sorted(seen[name])
        predicted = quantile(loads, name, 0.99, streams) - OVERHEAD
        assert predicted == pytest.approx(ordered[int(0.99 * len(ordered))], rel=0.25)
        assert predicted < quantile(loads, name, 0.99) - OVERHEAD  # one that does all of it


@pytest.mark.parametrize("streams", [2, 4])
@pytest.mark.parametrize("rho", [0.3, 0.6, 0.85])
def test_calls_that_take_all_streams_come_one_after_the_other(rho: float, streams: int) -> None:
    seconds = 0.01
    seen = sorted(simulate({"m": (rho / seconds, seconds)}, 60_000, seed=4)["m"])
    loads = {"m": Load(rho / seconds, seconds, seconds, width=streams)}
    assert utilisation(loads, streams) == pytest.approx(rho)
    assert quantile(loads, "m", 0.99, streams) - OVERHEAD == pytest.approx(seen[int(0.99 * len(seen))], rel=0.35)


@given(
    loads=st.lists(st.tuples(st.floats(0.1, 100), st.floats(1e-4, 0.1)), min_size=1, max_size=5),
    more=st.floats(1.0, 3.0),
    q=st.floats(0.5, 0.999),
)
def test_more_load_is_never_faster(loads: list[tuple[float, float]], more: float, q: float) -> None:
    """More of the same mixture: a mixture with more short calls is a shorter one, which the exponential tail overrates."""
    before = {str(i): Load(rate, seconds, seconds) for i, (rate, seconds) in enumerate(loads)}
    after = {name: Load(load.rate * more, load.mean, load.tail) for name, load in before.items()}
    for name in before:
        assert quantile(after, name, q) >= quantile(before, name, q) * (1 - 1e-9)
        assert quantile(before, name, q) >= before[name].tail


def test_an_overloaded_host_has_no_bound() -> None:
    assert quantile({"m": Load(101.0, 0.01, 0.01)}, "m", 0.99) == math.inf


def test_service_is_the_call_with_one_sample() -> None:
    assert service(profile((4, 0.02), (1, 0.01)), factor=2.0) == pytest.approx((0.02, 0.03))


@pytest.mark.parametrize(
    ("observed", "factor"),
    [
        (0.007, 1.0),  # between a full batch's share (5 ms) and a call alone (10 ms): as profiled
        (0.02, 2.0),
        (0.0025, 0.5),
        (9.0, CORRECTION[1]),
        (1e-6, CORRECTION[0]),
    ],
)
def test_correction(observed: float, factor: float) -> None:
    assert correction(observed, profile((1, 0.01), (4, 0.02))) == pytest.approx(factor)
