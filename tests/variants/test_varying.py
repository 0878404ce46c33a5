from __future__ import annotations

import numpy as np
import pytest

from variants.catalog import Model, Source, TensorSpec
from variants.errors import EngineFailed
from variants.measure import SHAPES_SECONDS, run_each
from variants.varying import calls, typical

Arrays = dict[str, np.ndarray]


def model(pad: dict[str, float] | None = None, max_batch: int = 4, **shapes: tuple[int, ...]) -> Model:
    specs = tuple(TensorSpec(name=name, datatype="INT64", shape=shape) for name, shape in shapes.items())
    return Model(
        name="m",
        task="t",
        inputs=specs,
        outputs=specs[:1],
        max_batch=max_batch,
        source=Source(onnx="m.onnx"),
        pad=pad or {},
    )


class Engine:
    """Notes the shapes it is called with, in the order of the inputs; refuses what is as long as `refused`."""

    def __init__(self, refused: int | None = None) -> None:
        self.seen: list[tuple[tuple[int, ...], ...]] = []
        self._refused = refused

    def infer(self, inputs: Arrays) -> None:
        if any(self._refused in array.shape[1:] for array in inputs.values()):
            raise EngineFailed("no")
        self.seen.append(tuple(array.shape for array in inputs.values()))


def run_shapes(
    engine: object, made: Model, data: Arrays, sizes: tuple[int, ...], seconds: float = SHAPES_SECONDS
) -> int:
    return run_each(engine, made, calls(made, data, sizes), seconds)


def filled(lengths: list[int], longest: int, *, first: int = 1) -> np.ndarray:
    """Samples of these lengths, counting from `first`, filled up with zeros."""
    places = np.arange(longest)
    return np.where(places < np.array(lengths)[:, None], places + first, 0)


def test_a_padded_model_is_run_at_each_of_its_lengths() -> None:
    engine = Engine()
    data = {"ids": np.zeros((5, 19), np.int64)}
    assert run_shapes(engine, model({"ids": 0}, ids=(-1, -1)), data, (1, 2)) == len(engine.seen)
    lengths = (*range(1, 13), 14, 16, 18)
    assert engine.seen == [((rows, length),) for rows in (1, 2) for length in lengths]


def test_requests_as_sent_have_the_lengths_of_the_data_and_share_a_call_where_those_agree() -> None:
    """The commonest first; the longest is the data's own, which has been run."""
    engine = Engine()
    ids = filled([9, 4, 6, 4, 4, 6], 9)
    run_shapes(engine, model(ids=(-1, -1), mask=(-1, -1)), {"ids": ids, "mask": np.sign(ids)}, (1, 2, 4))
    assert engine.seen == [((rows, n), (rows, n)) for rows, n in ((1, 4), (1, 6), (2, 4), (2, 6))]


def test_calls_are_made_of_samples_that_are_that_long() -> None:
    made: list[list[int]] = []

    class Reading:
        def infer(self, inputs: Arrays) -> None:
            made.append(inputs["ids"][:, -1].tolist())

    run_shapes(Reading(), model(ids=(-1, -1)), {"ids": filled([7, 3, 7, 3], 9)}, (1, 2))
    assert made == [[7], [3], [7, 7], [3, 3]]


def test_fill_is_whatever_a_sample_ends_in() -> None:
    """And in every input: a mask of ones, or tokens that repeat while the mask goes on, are none."""
    engine = Engine()
    ids = filled([5, 8, 8], 8)
    ids[0, 5:], ids[1, 6:] = 7, 3
    mask = np.ones((3, 8), np.int64)
    mask[0, 5:] = 0
    mask[1, 6:] = 1, 2
    run_shapes(engine, model(ids=(-1, -1), mask=(-1, -1)), {"ids": ids, "mask": mask}, (1, 2))
    assert engine.seen == [((1, 5), (1, 5))]


def test_two_lengths_vary_each_by_itself() -> None:
    engine = Engine()
    data = {"source": filled([8, 5, 8], 8), "target": filled([6, 6, 4], 6)}
    run_shapes(engine, model(source=(-1, -1), target=(-1, -1)), data, (1,))
    assert engine.seen == [((1, 5), (1, 6)), ((1, 8), (1, 4))]


def test_several_axes_of_one_length_are_cut_together() -> None:
    engine = Engine()
    tokens = filled([8, 5], 8)
    data = {"tokens": tokens, "pairs": tokens[:, :, None] * tokens[:, None, :]}
    run_shapes(engine, model(tokens=(-1, -1), pairs=(-1, -1, -1)), data, (1,))
    assert engine.seen == [((1, 5), (1, 5, 5))]


@pytest.mark.parametrize("shape", [(-1, 3, 6, 6), (-1, 3, -1, -1)])
def test_data_of_one_shape_add_nothing(shape: tuple[int, ...]) -> None:
    """Whether others are declared or not; and a sample that is the same everywhere is not taken for fill alone."""
    images = np.random.default_rng(0).integers(0, 255, (4, 3, 6, 6))
    images[1] = 0
    engine = Engine()
    assert run_shapes(engine, model(image=shape), {"image": images}, (1, 2, 4)) == 0
    assert not engine.seen


def test_nothing_is_run_where_no_size_is_measured() -> None:
    engine = Engine()
    for pad in ({}, {"ids": 0}):
        assert run_shapes(engine, model(pad, ids=(-1, -1)), {"ids": filled([4, 9], 9)}, ()) == 0
    assert not engine.seen


def test_a_shape_that_is_refused_is_left_out_but_for_those_that_requests_are_padded_to() -> None:
    engine = Engine(refused=4)
    assert run_shapes(engine, model(ids=(-1, -1)), {"ids": filled([9, 4, 6], 9)}, (1,)) == 1
    assert engine.seen == [((1, 6),)]
    with pytest.raises(EngineFailed, match="no"):
        run_shapes(engine, model({"ids": 0}, ids=(-1, -1)), {"ids": filled([9], 9)}, (1,))


def test_the_time_for_it_is_bounded() -> None:
    engine = Engine()
    assert run_shapes(engine, model(ids=(-1, -1)), {"ids": filled([9, 4, 6], 9)}, (1,), seconds=0.0) == 1


def test_a_typical_request_is_as_long_as_most_that_are_shorter_than_the_data() -> None:
    ids = filled([9, 9, 9, 9, 4, 6, 6], 9)
    data = {"ids": ids, "mask": np.sign(ids)}
    (made,) = typical(model(ids=(-1, -1), mask=(-1, -1)), data)
    assert {name: array.tolist() for name, array in made.items()} == {
        "ids": [[1, 2, 3, 4, 5, 6]],
        "mask": [[1, 1, 1, 1, 1, 1]],
    }


@pytest.mark.parametrize(("length", "run_at"), [(7, 7), (13, 14), (17, 18), (25, 27)])
def test_a_typical_request_is_padded_as_it_would_be(length: int, run_at: int) -> None:
    """To the data's length at most."""
    (made,) = typical(model({"ids": 0}, ids=(-1, -1)), {"ids": filled([length, 27], 27)})
    assert made["ids"].shape == (1, run_at)


def test_nothing_is_typical_of_data_of_one_length() -> None:
    assert not list(typical(model(ids=(-1, -1)), {"ids": filled([9, 9], 9)}))
    assert not list(typical(model(image=(-1, 3)), {"image": np.zeros((4, 3), np.int64)}))
