"""The interval of a measured percentile."""

from __future__ import annotations

import math
import random

from benchmarks.predicted import interval

#: The 99th percentile of an exponential with mean 1.
TRUE = math.log(100)


def drawn(seed: int, count: int, repeated: int = 1) -> list[tuple[float, float]]:
    """Latencies a tenth of a second apart, each the same for so many requests in a row."""
    draw = random.Random(seed)
    values = [draw.expovariate(1.0) for _ in range(count // repeated)]
    return [(0.1 * i, values[i // repeated]) for i in range(count // repeated * repeated)]


def test_it_holds_the_true_percentile_as_often_as_it_says() -> None:
    found = [interval(drawn(seed, 1000)) for seed in range(60)]
    holds = sum(bounds is not None and bounds[0] <= TRUE <= bounds[1] for bounds in found)
    assert holds >= 54


def test_requests_that_are_late_together_say_less() -> None:
    single, grouped = (
        sum(high - low for low, high in filter(None, (interval(drawn(s, 2000, n)) for s in range(12)))) for n in (1, 20)
    )
    assert grouped > 1.2 * single


def test_of_few_requests_there_is_no_upper_bound() -> None:
    bounds = interval(drawn(0, 100))
    assert bounds is not None
    assert math.isinf(bounds[1])
    assert interval([]) is None
