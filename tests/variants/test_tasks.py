"""Models that serve one task: what it takes and gives, and who does not fit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from variants.catalog import Model, Source, TensorSpec
from variants.repository import load_catalog
from variants.tasks import split, tasks


def model(name: str, shape: tuple[int, ...] = (-1, 4), output: tuple[int, ...] = (-1, 2), **changes: Any) -> Model:
    values = {
        "name": name,
        "task": "t",
        "inputs": (TensorSpec(name="x", datatype="FP32", shape=shape),),
        "outputs": (TensorSpec(name="y", datatype="FP32", shape=output),),
        "source": Source(onnx="m.onnx"),
        "serves": ("embed",),
    }
    return Model(**{**values, **changes})


def test_a_task_takes_what_all_take_and_gives_what_any_gives():
    found = tasks([model("a", max_batch=8), model("b", (-1, -1), (-1, -1), max_batch=4), model("c", serves=())])
    task = found["embed"]
    assert task.models == ("a", "b")
    assert (task.inputs[0].shape, task.outputs[0].shape) == ((-1, 4), (-1, -1))
    assert (task.max_batch, task.batchable) == (4, True)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (model("b", (-1, 5)), r"serves 'embed': input 'x' has shape \[-1, 5\]; that of a has \[-1, 4\]"),
        (model("b", (-1, 4, 1)), "input 'x' has shape"),
        (model("b", output=(-1, 3)), r"output 'y' has shape \[-1, 3\]"),
        (model("b", max_batch=1), "it is not batchable, but a batchable"),
        (
            model("b", inputs=(TensorSpec(name="z", datatype="FP32", shape=(-1, 4)),)),
            "its inputs are z; those of a are x",
        ),
        (
            model("b", inputs=(TensorSpec(name="x", datatype="INT64", shape=(-1, 4)),)),
            "input 'x' is INT64; that of a is FP32",
        ),
    ],
)
def test_models_that_do_not_fit(other, message):
    with pytest.raises(ValueError, match=message):
        tasks([model("a"), other])


@pytest.mark.parametrize("names", [["infer"], ["a", "a"], ["with/slash"]])
def test_names_that_no_task_can_have(names):
    with pytest.raises(ValueError):
        model("a", serves=names)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("v2/models/tasks/embed/infer", ["v2", "models", "tasks/embed", "infer"]),
        ("v2/models/tasks/embed", ["v2", "models", "tasks/embed"]),
        ("v2/models/tasks/embed/versions/1/infer", ["v2", "models", "tasks/embed", "versions", "1", "infer"]),
        ("v2/models/tasks/infer", ["v2", "models", "tasks", "infer"]),  # a model called so
        ("v2/models/tasks", ["v2", "models", "tasks"]),
        ("v2/models/tasks/versions/1/infer", ["v2", "models", "tasks", "versions", "1", "infer"]),
        ("v2/models/m/infer", ["v2", "models", "m", "infer"]),
    ],
)
def test_paths(path, expected):
    assert split(path.split("/")) == expected


def test_a_model_that_does_not_fit_is_refused_and_disturbs_nobody(affine_repository: Path, tmp_path: Path):
    root = tmp_path / "models"
    shutil.copytree(affine_repository, root)
    for name, serves in (("alpha", ["sum"]), ("beta", ["sum", "more"])):
        path = root / name / "model.yaml"
        document = yaml.safe_load(path.read_text())
        document["serves"] = serves
        if name == "beta":
            document["inputs"][0]["datatype"] = "FP64"
        path.write_text(yaml.safe_dump(document))
    catalog = load_catalog(root)
    assert list(catalog.entries) == ["alpha"]
    (refused,) = catalog.refused
    assert (refused.model, refused.variant) == ("beta", None)
    assert refused.reason.endswith("model.yaml: serves 'sum': input 'x' is FP64; that of alpha is FP32")
