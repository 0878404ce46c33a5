"""Techniques that work on the graph: precisions, quantisation, vocabulary; and that TensorRT takes what they make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from variants.build import pipeline
from variants.build.accuracy import outputs as graph_outputs
from variants.build.accuracy import quantised_layers, restored
from variants.build.context import run
from variants.build.legalize import check_legal
from variants.build.precision import overflowing
from variants.catalog import Entry
from variants.engines.tensorrt_ import import_flavour
from variants.errors import EngineUnavailable
from variants.repository import load_catalog, read_canary, variant_folder

Change = Callable[..., Path]
RTX = {"tensorrt-rtx": {"compute_capabilities": ["8.9"]}}


def entry_of(folder: Path) -> Entry:
    return load_catalog(folder.parent).entries[folder.name]


def outputs(folder: Path, name: str, inputs: dict[str, Any]) -> Any:
    entry = entry_of(folder)
    result = run(entry.model, entry.variants[name], variant_folder(folder, name), inputs)
    return next(iter(result.values()))


def graph_of(folder: Path, name: str) -> Any:
    return onnx.load(variant_folder(folder, name) / "model.onnx")


@pytest.mark.parametrize("name", ["cnn", "encoder", pytest.param("vit", marks=pytest.mark.slow)])
def test_every_precision_is_close_legal_and_compiles(model: Change, name: str) -> None:
    folder = model(name, techniques=RTX)
    try:
        import_flavour("tensorrt_rtx")
    except EngineUnavailable as error:
        pytest.skip(str(error))
    summary = pipeline.build(folder, ["fp16+tensorrt-rtx", "bf16+tensorrt-rtx", "int8+tensorrt-rtx"])
    assert (summary.failed, summary.skipped) == ({}, {"fp32": "already there"})
    canary = read_canary(folder)
    assert canary is not None
    expected = next(iter(canary[1].values()))
    for precision, limit in (("fp16", 0.01), ("bf16", 0.05), ("int8", 0.2)):
        apart = np.abs(outputs(folder, precision, canary[0]) - expected).max() / np.abs(expected).max()
        assert apart < limit, precision
        plan = entry_of(folder).variants[f"{precision}-tensorrt-rtx"]
        assert plan.options["compute_capability"] == "8.9"
        assert (variant_folder(folder, plan.name) / "model.plan").stat().st_size > 1000
    int8 = graph_of(folder, "int8")
    assert check_legal(int8) == []
    assert len(quantised_layers(int8)) >= 3
    assert entry_of(folder).variants["int8"].lineage.samples == 96


@pytest.mark.parametrize(("exact", "most"), [(True, 127), (False, 64)])
def test_weights_have_half_their_range_where_products_saturate(
    model: Change, monkeypatch: pytest.MonkeyPatch, exact: bool, most: int
) -> None:
    monkeypatch.setattr("variants.build.quantize.exact_products", lambda: exact)
    folder = model("cnn", techniques={"int8": {"max_distance": 1.0}})
    assert pipeline.build(folder, ["int8"]).failed == {}
    weights = [numpy_helper.to_array(i) for i in graph_of(folder, "int8").graph.initializer]
    largest = [int(np.abs(w.astype(np.int32)).max()) for w in weights if w.dtype == np.int8 and w.ndim > 1]
    assert max(largest) in (most - 1, most)
    assert entry_of(folder).variants["int8"].lineage.parameters.get("half_range", False) is not exact


def test_what_int8_leaves_is_executed_in_bf16(model: Change) -> None:
    folder = model("encoder")
    assert pipeline.build(folder, ["int8+bf16-hint"]).failed == {}
    variant = entry_of(folder).variants["int8-bf16-hint"]
    assert (variant.precision, variant.lineage.parent) == ("int8", "int8")
    assert variant.options["inference_precision"] == "bf16"
    assert graph_of(folder, "int8-bf16-hint") == graph_of(folder, "int8")
    canary = read_canary(folder)
    assert canary is not None
    expected = next(iter(canary[1].values()))
    assert np.abs(outputs(folder, "int8-bf16-hint", canary[0]) - expected).max() / np.abs(expected).max() < 0.2


@pytest.mark.parametrize("parent", ["int8", "bf16-hint", "int8-weights"])
def test_one_stream_runs_the_same_files(model: Change, parent: str) -> None:
    folder = model("encoder")
    assert pipeline.build(folder, [f"{parent}+one-stream"]).failed == {}
    before, variant = (entry_of(folder).variants[name] for name in (parent, f"{parent}-one-stream"))
    assert variant.options == {**before.options, "streams": "1"}
    assert (variant.precision, variant.files, variant.lineage.parent) == (before.precision, before.files, parent)
    assert (before.width(4), variant.width(4)) == (1, 4)
    canary = read_canary(folder)
    assert canary is not None
    np.testing.assert_allclose(outputs(folder, variant.name, canary[0]), outputs(folder, parent, canary[0]), atol=1e-5)


def test_only_openvino_has_streams_and_hints(model: Change) -> None:
    other = {"engine": "onnx"}
    folder = model(
        "encoder", techniques={"other": {"technique": "fp16", **other}, "one-stream": other, "bf16-hint": other}
    )
    failed = pipeline.build(folder, ["other+one-stream"]).failed["other-one-stream"]
    assert "needs a parent of the engine openvino, has parent other, which the engine onnx runs" in failed
    failed = pipeline.build(folder, ["one-stream"]).failed["one-stream"]
    assert "techniques.one-stream.engine: 'onnx' would ignore the variant's streams, which only openvino has" in failed
    failed = pipeline.build(folder, ["bf16-hint"]).failed["bf16-hint"]
    assert "'onnx' would ignore the variant's inference_precision, which only openvino has" in failed


def test_2_4_sparsity_reaches_the_compiler(model: Change) -> None:
    try:
        import_flavour("tensorrt_rtx")
    except EngineUnavailable as error:
        pytest.skip(str(error))
    folder = model("encoder", techniques={**RTX, "sparse24": {"minutes": 0.0, "max_distance": 1.0}})
    assert pipeline.build(folder, ["sparse24+fp16+tensorrt-rtx"]).failed == {}
    variant = entry_of(folder).variants["sparse24-fp16-tensorrt-rtx"]
    assert variant.lineage.parameters["sparse"] is True


@pytest.mark.parametrize(("technique", "share"), [("int8-weights", 0.45), ("int4-weights", 0.4)])
def test_weights_are_small_and_stay_close(model: Change, technique: str, share: float) -> None:
    folder = model("encoder", techniques={"int4-weights": {}})
    assert pipeline.build(folder, [technique]).failed == {}
    canary = read_canary(folder)
    assert canary is not None
    expected = next(iter(canary[1].values()))
    assert np.abs(outputs(folder, technique, canary[0]) - expected).mean() < 0.1 * np.abs(expected).mean() + 0.05
    sizes = [sum(p.stat().st_size for p in variant_folder(folder, n).glob("model.*")) for n in (technique, "fp32")]
    assert sizes[0] < share * sizes[1]
    assert entry_of(folder).variants[technique].precision == technique.partition("-")[0]


ODD = """

class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide, self.odd, self.even = nn.Linear(64, 52), nn.Linear(52, 72), nn.Linear(72, 10)

    def forward(self, image):
        return self.even(self.odd(self.wide(image.flatten(1)).relu()).relu())


def odd():
    return seeded(Odd)
"""


def test_groups_fit_each_layer(model: Change) -> None:
    folder = model("cnn", source={"factory": "model.py:odd"}, techniques={"int4-weights": {}})
    (folder / "model.py").write_text((folder / "model.py").read_text() + ODD)
    assert pipeline.build(folder, ["fp32"], force=True).failed == {}
    assert pipeline.build(folder, ["int4-weights"]).failed == {}
    made = entry_of(folder).variants["int4-weights"].lineage.parameters
    # 32 divides 64; of 72 at most 8 does; of 52 only 4, which saves nothing beside int8.
    assert (made["group_size"], made["groups"], made["in_int8"]) == (32, {"even.weight": 8}, ["odd.weight"])


def test_a_graph_without_layers_for_int4_says_so(model: Change) -> None:
    asked = {"int4-weights": {"group_size": 512}, "three": {"technique": "int4-weights", "group_size": 3}}
    folder = model("cnn", techniques={**asked, "few": {"technique": "int4-weights", "ratio": 0.01}})
    summary = pipeline.build(folder, ["int4-weights", "three", "few"])
    assert summary.built == ["int4-weights"]
    assert entry_of(folder).variants["int4-weights"].lineage.parameters["groups"] == {"9.weight": 256}
    assert "techniques.three.group_size: 3; a power of two from 8 up is accepted" in summary.failed["three"]
    assert "no layer of model.onnx can be stored in int4" in summary.failed["few"]
    assert "use int8-weights" in summary.failed["few"]


def test_calibration_data_says_which_layers_stay_int8(model: Change) -> None:
    folder = model("encoder", techniques={"int4-weights": {"ratio": 0.5, "samples": 16}})
    assert pipeline.build(folder, ["int4-weights"]).failed == {}
    made = entry_of(folder).variants["int4-weights"].lineage
    assert (made.samples, made.parameters["ratio"]) == (16, 0.5)
    kinds = (variant_folder(folder, "int4-weights") / "model.xml").read_text()
    assert 'element_type="i4"' in kinds
    assert 'element_type="u8"' in kinds


def test_the_worst_layers_go_back_until_the_tolerance_holds(model: Change) -> None:
    folder = model("cnn", techniques={"int8": {"tolerance": 0.5}, "strict": {"technique": "int8", "tolerance": 1e-5}})
    assert pipeline.build(folder, ["int8", "strict"]).failed == {}
    made = {n: entry_of(folder).variants[n].lineage.parameters for n in ("int8", "strict")}
    assert made["int8"]["in_floating_point"] == []
    back = made["strict"]["in_floating_point"]
    assert back
    assert made["strict"]["distance"] <= 1e-5 < made["int8"]["distance"]
    left = quantised_layers(graph_of(folder, "strict"))
    assert not set(left) & set(back)
    assert sorted([*left, *back]) == sorted(quantised_layers(graph_of(folder, "int8")))


def test_a_graph_with_every_layer_back_is_the_original(model: Change) -> None:
    folder = model("cnn")
    assert pipeline.build(folder, ["int8"]).failed == {}
    original, quantised = graph_of(folder, "fp32"), graph_of(folder, "int8")
    layers = quantised_layers(quantised)
    shifted = [t.name for t in quantised.graph.initializer if t.name.endswith("bias")]
    for tensor in quantised.graph.initializer:
        if tensor.name in shifted:  # as a quantiser's bias correction does, but more of it
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 1.0, tensor.name))
    assert shifted
    whole = restored(original, quantised, layers)
    assert quantised_layers(whole) == []
    onnx.checker.check_model(whole)
    canary = read_canary(folder)
    assert canary is not None
    expected, made = (graph_outputs(g, [canary[0]], ["scores"])["scores"] for g in (original, whole))
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-5)


def test_a_bias_behind_a_layer_that_goes_back_is_the_layers() -> None:
    """The bias is an Add of its own; two layers share it, of which one stays quantised."""

    def graph(bias: float, quantised: bool) -> Any:
        tensors = {"w": np.eye(4), "b": np.full(4, bias)}
        nodes = []
        for name in ("one", "two"):
            source = "x"
            if quantised:
                nodes.append(helper.make_node("QuantizeLinear", ["x", "s", "z"], [f"{name}_q"], name=f"{name}_q"))
                nodes.append(
                    helper.make_node("DequantizeLinear", [f"{name}_q", "s", "z"], [f"{name}_d"], name=f"{name}_d")
                )
                source = f"{name}_d"
            nodes.append(helper.make_node("MatMul", [source, "w"], [f"{name}_m"], name=name))
            nodes.append(helper.make_node("Add", [f"{name}_m", "b"], [name], name=f"{name}_b"))
        constants = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in tensors.items()]
        constants += [numpy_helper.from_array(np.float32(0.5), "s"), numpy_helper.from_array(np.int8(0), "z")]
        values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("x", "one", "two")]
        made = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
        return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)

    half = restored(graph(1.0, False), graph(3.0, True), ["one"])
    onnx.checker.check_model(half)
    assert quantised_layers(half) == ["two"]
    made = graph_outputs(half, [{"x": np.full((1, 4), 0.3, np.float32)}], ["one", "two"])
    np.testing.assert_allclose(made["one"], np.full((1, 4), 1.3), rtol=1e-6)
    np.testing.assert_allclose(made["two"], np.full((1, 4), 3.5), rtol=1e-6)


def test_what_overflows_in_fp16_stays_in_fp32(tmp_path: Path) -> None:
    """x * 4e4 leaves fp16's range; the sum of squares inside ReduceL2 does though neither its input nor output does."""
    nodes = [
        helper.make_node("Mul", ["x", "big"], ["scaled"], name="scale"),
        helper.make_node("Mul", ["scaled", "small"], ["back"], name="unscale"),
        helper.make_node("Mul", ["back", "wide"], ["wider"], name="widen"),
        helper.make_node("Mul", ["wider", "wider"], ["squares"], name="square"),
        helper.make_node("ReduceSum", ["squares"], ["sum"], name="add", keepdims=1),
        helper.make_node("Mul", ["sum", "small"], ["y"], name="end"),
    ]
    constants = {"big": 4e4, "small": 1 / 4e4, "wide": 100.0}
    tensors = [numpy_helper.from_array(np.full((1,), v, np.float32), n) for n, v in constants.items()]
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["n", 4]), ("y", [1, 1]))]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    x = np.full((1, 4), 2.0, np.float32)
    assert overflowing(made, [{"x": x}]) == ["scale", "square", "add"]
    folder = tmp_path / "models" / "ranges"
    folder.mkdir(parents=True)
    onnx.save(made, folder / "m.onnx")
    np.savez(folder / "x.npz", x=np.repeat(x, 64, 0))
    (folder / "model.yaml").write_text(
        "{name: ranges, task: t, metric: relative_error, max_batch: 1, source: {onnx: m.onnx}, data: {calibration: x.npz},"
        " inputs: [{name: x, datatype: FP32, shape: [-1, 4]}], outputs: [{name: y, datatype: FP32, shape: [1, 1]}]}"
    )
    assert pipeline.build(folder, ["fp16"]).failed == {}
    made_of = entry_of(folder).variants["fp16"].lineage
    assert made_of.parameters["kept_in_fp32"][:3] == ["scale", "square", "add"]
    assert outputs(folder, "fp16", {"x": x})[0, 0] == pytest.approx(4 * 200.0**2 / 4e4, rel=0.01)


def test_vocabulary_trimming(model: Change) -> None:
    folder = model("encoder", techniques={"vocabulary": {"unknown": 7, "keep": [1100]}})
    assert pipeline.build(folder, ["vocabulary+int8-weights"]).failed == {}
    kept = entry_of(folder).variants["vocabulary"].lineage
    ids = np.arange(400)
    assert kept.parameters["rows"][0] == 1200
    assert 300 < kept.parameters["rows"][1] <= 401
    assert kept.samples == 96
    known = np.array([[1, 2, 3, 7]], np.int64)
    used = np.unique(np.random.default_rng(0).integers(0, 400, size=(96, 12)))
    assert set(known[0]) <= set(used) <= set(ids)
    assert np.allclose(
        outputs(folder, "vocabulary", {"ids": known}), outputs(folder, "fp32", {"ids": known}), atol=1e-5
    )
    unseen = np.array([[1, 2, 3, 900]], np.int64)
    assert np.allclose(
        outputs(folder, "vocabulary", {"ids": unseen}), outputs(folder, "fp32", {"ids": known}), atol=1e-5
    )
    extra = np.array([[1, 2, 3, 1100]], np.int64)
    assert np.allclose(
        outputs(folder, "vocabulary", {"ids": extra}), outputs(folder, "fp32", {"ids": extra}), atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "parameters", "why"),
    [
        ("encoder", {}, "unknown is missing"),
        ("encoder", {"unknown": 5000}, "ids from 0 to 1199 have rows"),
        ("cnn", {"unknown": 0}, "no input looks rows up"),
    ],
)
def test_vocabulary_requests_that_do_not_fit(model: Change, name: str, parameters: dict[str, Any], why: str) -> None:
    folder = model(name, techniques={"vocabulary": parameters})
    assert why in pipeline.build(folder, ["vocabulary"]).failed["vocabulary"]


def test_a_plan_of_another_library_is_built_again(model: Change) -> None:
    try:
        import_flavour("tensorrt_rtx")
    except EngineUnavailable as error:
        pytest.skip(str(error))
    folder = model("cnn", techniques=RTX)
    assert pipeline.build(folder, ["tensorrt-rtx"]).built == ["tensorrt-rtx"]
    assert pipeline.build(folder, ["tensorrt-rtx"]).skipped["tensorrt-rtx"] == "already there"
    record = variant_folder(folder, "tensorrt-rtx") / "variant.json"
    library = entry_of(folder).variants["tensorrt-rtx"].options["library"]
    record.write_text(record.read_text().replace(library, "0.0.1"))
    assert pipeline.build(folder, ["tensorrt-rtx"]).built == ["tensorrt-rtx"]
    assert entry_of(folder).variants["tensorrt-rtx"].options["library"] == library
