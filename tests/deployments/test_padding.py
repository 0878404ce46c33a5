"""Unequal lengths in one call: joined, filled up, cut apart."""

from __future__ import annotations

import asyncio
import itertools

import numpy as np
import pytest

from deployments.batching import Pending, run
from deployments.company import LIMIT
from deployments.config import Batching, HostConfig
from deployments.padding import Padding, together
from variants.catalog import Model, Source, TensorSpec
from variants.lengths import BOUNDS, bucket, run_at, whole


def model(**changes) -> Model:
    values = {
        "name": "m",
        "task": "t",
        "inputs": (
            TensorSpec(name="ids", datatype="INT64", shape=(-1, -1)),
            TensorSpec(name="weight", datatype="FP32", shape=(-1, -1, 2)),
        ),
        "outputs": (
            TensorSpec(name="sum", datatype="FP32", shape=(-1, 2)),
            TensorSpec(name="each", datatype="FP32", shape=(-1, 2, -1)),
        ),
        "max_batch": 16,
        "source": Source(onnx="m.onnx"),
        "pad": {"ids": 7, "weight": 0.0},
    }
    return Model(**{**values, **changes})


class Engine:
    """Sums that ignore what has no weight."""

    def __init__(self) -> None:
        self.seen: list[dict[str, np.ndarray]] = []

    def infer(self, inputs):
        self.seen.append(dict(inputs))
        each = inputs["ids"][:, :, None].astype(np.float32) * inputs["weight"]
        return {"sum": each.sum(1), "each": each.transpose(0, 2, 1)}


def request(rows: int, length: int, padding: Padding) -> Pending:
    rng = np.random.default_rng(rows * 100 + length)
    inputs = {
        "ids": rng.integers(1, 100, (rows, length)),
        "weight": rng.normal(size=(rows, length, 2)).astype(np.float32),
    }
    future = asyncio.Future(loop=asyncio.new_event_loop())
    future.get_loop().close()
    found = padding.length(inputs)
    assert found == length
    return Pending(inputs, rows, bucket(found), 0.0, 1e9, future, length=found)


def test_a_request_alone_is_filled_up_by_a_seventh_at_most():
    assert all(low < high for low, high in itertools.pairwise(BOUNDS))
    low = 1
    for number, high in enumerate(BOUNDS):
        assert bucket(low) == bucket(high) == number
        assert run_at(low) == high
        assert 1 - low / high <= 1 / 7 < LIMIT
        low = high + 1
    assert {128, 256, 384, 512, 2048} <= set(BOUNDS)


@pytest.mark.parametrize(("rows", "largest", "run"), [(1, 8, 1), (3, 8, 2), (7, 8, 4), (8, 8, 8), (9, 8, 8), (6, 6, 6)])
def test_calls_have_few_sizes(rows, largest, run):
    assert whole(rows, largest) == run


@pytest.mark.parametrize(
    ("rows", "count"),
    [([1] * 7, 4), ([1] * 8, 8), ([1, 1, 1], 2), ([3, 1, 2], 2), ([3, 3], 2), ([1, 3, 4, 3], 3), ([5], 1)],
)
def test_requests_are_called_together_in_few_numbers_of_rows(rows, count):
    batch = [Pending({}, n, 3, 0.0, 1e9, None, 1, 4) for n in rows]
    assert together(batch, 16) == count


def test_a_request_alone_is_run_at_one_of_the_lengths_and_at_its_own_where_that_fails():
    padding = Padding.of(model())
    assert padding is not None
    engine = Engine()
    (result,) = run(engine, [pending := request(2, 17, padding)], "m", lambda: 0.0, padding)
    assert engine.seen[0]["ids"].shape == (2, 18)
    assert isinstance(result, dict)
    assert result["each"].shape == (2, 2, 17)

    class Short(Engine):
        def infer(self, inputs):
            if inputs["ids"].shape[1] > 17:
                raise ValueError("no position 17")
            return super().infer(inputs)

    (result,) = run(Short(), [pending], "m", lambda: 0.0, padding)
    assert isinstance(result, dict)


def test_padded_answers_are_those_of_each_request_alone():
    padding = Padding.of(model())
    assert padding is not None
    batch = [request(rows, length, padding) for rows, length in ((1, 5), (2, 7), (1, 6))]
    engine = Engine()
    results = run(engine, batch, "m", lambda: 0.0, padding)
    (joined,) = engine.seen
    assert joined["ids"].shape == (4, 7)
    assert joined["ids"].dtype == np.int64
    assert joined["ids"][0, 5:].tolist() == [7, 7]
    assert joined["weight"].dtype == np.float32
    for pending, result in zip(batch, results, strict=True):
        alone = engine.infer(pending.inputs)
        assert result["each"].shape == (pending.rows, 2, pending.length)
        for name, expected in alone.items():
            np.testing.assert_allclose(result[name], expected, rtol=1e-6)


def test_lengths_that_differ_within_a_request_are_not_padded():
    padding = Padding.of(model())
    assert padding is not None
    assert padding.length({"ids": np.zeros((1, 3)), "weight": np.zeros((1, 4, 2))}) is None
    assert padding.length({"ids": np.zeros((1, 0)), "weight": np.zeros((1, 0, 2))}) is None


def test_only_models_that_ask_for_it():
    assert Padding.of(model(pad={})) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pad": {"ids": 0}}, "name every input with a varying axis besides the batch, and no other: ids, weight"),
        ({"pad": {"ids": 0, "weight": 0, "more": 0}}, "and no other"),
        ({"pad": {"ids": 0.5, "weight": 0}}, r"0\.5 is no INT64"),
        ({"max_batch": 1}, "only a model that is batchable"),
        (
            {"inputs": (TensorSpec(name="x", datatype="FP32", shape=(-1, -1, -1)),), "pad": {"x": 0}},
            "one varying axis besides the batch",
        ),
        ({"inputs": (TensorSpec(name="x", datatype="BYTES", shape=(-1, -1)),), "pad": {"x": 0}}, "must be numeric"),
    ],
)
def test_models_that_cannot_be_padded(changes, message):
    with pytest.raises(ValueError, match=message):
        model(**changes)


async def test_requests_of_unequal_length_share_a_call_and_padding_is_counted(lab):
    config = HostConfig(threads=1, concurrent_batches=2, batching=Batching())
    host = await lab.start(config, a={"pad": {"x": 0.0}, "max_batch": 16})
    lab.bias["best"] = 1.0
    sent = [np.full((1, length), float(length), np.float32) for length in (20, 19, 5)]
    answers = await asyncio.gather(*(host.infer("a", {"x": x}) for x in sent))
    assert sorted(lab.calls("a")) == [1, 2]
    for x, answer in zip(sent, answers, strict=True):
        np.testing.assert_array_equal(answer.outputs["y"], x + 1)
    samples = {s.name: s.value for m in lab.registry.collect() for s in m.samples if s.labels == {"model": "a"}}
    assert samples["trimtab_padding_positions_total"] == 1
    assert samples["trimtab_positions_total"] == 45
