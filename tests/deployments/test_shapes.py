"""The shapes that requests have are run on a new engine before it is in force."""

import numpy as np
import pytest

from deployments.api import Assignment
from deployments.shapes import KEPT, Shapes, filled
from variants.catalog import Model, Source, TensorSpec
from variants.device import calls_at_once
from variants.errors import EngineFailed


def test_the_most_frequent_come_first_and_the_rarest_are_forgotten():
    shapes = Shapes()
    for shape, times in (((1, 7), 3), ((8, 7), 9), ((2, ((4,),)), 5)):
        for _ in range(times):
            shapes.ran(shape)
    assert shapes.usual() == [(8, 7), (2, ((4,),)), (1, 7)]
    assert len(shapes) == 3
    for length in range(KEPT + 10):
        shapes.ran((4, 100 + length))
    kept = shapes.usual()
    assert len(kept) <= KEPT
    assert kept[0] == (8, 7)


def test_what_few_calls_have_is_left_to_them():
    shapes = Shapes()
    assert shapes.usual() == []
    for shape, times in (((1, 7), 60), ((8, 7), 29), ((4, 7), 6), ((2, 7), 5)):
        for _ in range(times):
            shapes.ran(shape)
    assert shapes.usual() == [(1, 7), (8, 7), (4, 7)], "95 of 100 calls; without the third it would be 89"
    assert len(shapes) == 4


def model(pad=None, **inputs):
    return Model(
        name="m",
        task="t",
        inputs=[TensorSpec(name=name, datatype="INT64", shape=shape) for name, shape in inputs.items()],
        outputs=[TensorSpec(name="y", datatype="FP32", shape=[-1, 2])],
        source=Source(onnx="m.onnx"),
        build=["fp32"],
        max_batch=8,
        pad=pad or {},
    )


def test_inputs_of_a_shape_are_a_samples_first_row_over_and_over():
    sample = {"ids": np.array([[5, 6, 7], [0, 0, 0]]), "kind": np.array([[1, 2], [9, 9]])}
    padded = model({"ids": 0}, ids=[-1, -1], kind=[-1, 2])
    made = filled(padded, (2, 8), sample)
    assert made["ids"].tolist() == [[5, 6, 7, 5, 6, 7, 5, 6], [7, 5, 6, 7, 5, 6, 7, 5]]
    assert made["kind"].tolist() == [[1, 2], [1, 2]]
    plain = filled(model(ids=[-1, -1], kind=[-1, 2]), (3, ((4,), (2,))), sample)
    assert {name: array.shape for name, array in plain.items()} == {"ids": (3, 4), "kind": (3, 2)}
    assert {array.dtype for array in plain.values()} == {np.dtype("int64")}


async def test_a_host_says_how_many_there_were(lab, x):
    host = await lab.start(a={}, b={})
    for rows in (3, 3, 5):
        await host.infer("a", x(rows=rows))
    assert host.observe().shapes == {"a": 2, "b": 0}
    assert host.observe().streams == calls_at_once(1)


@pytest.mark.parametrize("refuses", [False, True])
async def test_a_new_engine_has_run_them_before_it_answers(lab, x, settled, monkeypatch, refuses):
    inputs = np.arange(8, dtype=np.float32).reshape(2, 4)
    lab.canary = ({"x": inputs}, {"y": inputs})
    host = await lab.start(a={})
    for rows in (3, 3, 5):
        await host.infer("a", x(rows=rows))
    seen = []
    infer = type(lab.engines[-1]).infer

    def recorded(engine, given):
        if engine.variant == "cheap":
            seen.append(len(given["x"]))
            if refuses and len(given["x"]) == 5:
                raise EngineFailed("made-up inputs are refused")
        return infer(engine, given)

    monkeypatch.setattr(type(lab.engines[-1]), "infer", recorded)
    host.apply(Assignment(1, {"a": "cheap"}, {"a": "make_before_break"}))
    await settled(host, 1)
    assert host.status("a").variant == "cheap"  # whatever it says of made-up inputs
    assert seen[-2:] == [3, 5]
