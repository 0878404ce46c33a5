"""What is served in the benchmarks: the models, what is sent to them, and what a right answer is."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.peers.engine import Engine
from examples.demo.payloads import MASK, samples
from variants.catalog import Model
from variants.engines.base import Array
from variants.repository import load_model

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples" / "models"
CACHE = ROOT / ".cache" / "bench"
#: How far an answer may be from the engine's own, relative to the largest number in it: int8 engines add up in another
#: order for other batches.
TOLERANCE = 0.05
#: Example models and their copies, in the order of their popularity.
TWELVE = (
    ("docstring-topic", ""), ("wine", ""), ("minilm", ""), ("digits-cnn", ""), ("breast-cancer", ""), ("digits-vit", ""),
    ("diabetes", ""), ("digits-cnn", "-2"), ("minilm", "-2"), ("docstring-topic", "-2"), ("digits-vit", "-2"), ("wine", "-2"),
)  # fmt: skip


@dataclass(frozen=True)
class Served:
    """One model of a benchmark, in a repository of trimtab's: `folder`. The first of the variants is what everybody
    serves of it, others only trimtab; an answer is right if it is what one of them computes. `threads`: of its engine.
    `payloads`: single requests, by input."""

    model: Model
    folder: Path
    variants: Sequence[str]
    threads: int
    payloads: Sequence[Mapping[str, Array]]

    @property
    def name(self) -> str:
        return self.model.name

    def describe(self, variant: str | None = None) -> dict[str, Any]:
        """For `benchmarks.peers.engine`."""
        folder = self.folder / "variants" / (variant or self.variants[0])
        told = json.loads((folder / "variant.json").read_text(encoding="utf-8"))
        return {
            "name": self.name,
            "artefact": str(folder / told["artefact"]),
            "precision": told["precision"],
            "threads": self.threads,
            "max_batch": self.model.max_batch,
            "pad": dict(self.model.pad),
            "inputs": [spec.model_dump(mode="json") for spec in self.model.inputs],
            "outputs": [spec.model_dump(mode="json") for spec in self.model.outputs],
        }

    @functools.cached_property
    def bodies(self) -> list[bytes]:
        """The payloads as JSON of the Open Inference Protocol."""
        return [
            json.dumps(
                {
                    "inputs": [
                        {
                            "name": spec.name,
                            "datatype": spec.datatype,
                            "shape": list(payload[spec.name].shape),
                            "data": payload[spec.name].ravel().tolist(),
                        }
                        for spec in self.model.inputs
                    ]
                },
                separators=(",", ":"),
            ).encode()
            for payload in self.payloads
        ]

    @functools.cached_property
    def expected(self) -> list[list[Array]]:
        """The first output for each payload by the engine alone, of each variant."""
        engines = [Engine(self.describe(variant)) for variant in self.variants]
        name = self.model.outputs[0].name
        return [[engine(payload)[name] for engine in engines] for payload in self.payloads]

    def right(self, index: int, status: int, body: bytes) -> bool:
        """Whether an answer to that payload is what the engine computes."""
        if status != 200:
            return False
        try:
            output = json.loads(body)["outputs"][0]
            found = np.asarray(output["data"], np.float32).reshape(output["shape"])
        except (ValueError, KeyError, IndexError, TypeError):
            return False
        return self.close(index, found)

    def close(self, index: int, found: Array) -> bool:
        """Whether these numbers are what the engine computes for that payload."""
        return any(
            found.shape == wanted.shape
            and np.allclose(found, wanted, rtol=0, atol=TOLERANCE * float(np.abs(wanted).max()))
            for wanted in self.expected[index]
        )


def layers(repository: Path, name: str, weights: Sequence[Array], **more: Any) -> Path:
    """Build a model, 16 floats `x` to 16 floats `y`, of matrices that are multiplied one after the other; returns its
    folder. `more`: of its model.yaml. Raises RuntimeError when it cannot be built."""
    from onnx import TensorProto, helper, numpy_helper, save

    from variants.build import pipeline

    folder = repository / name
    folder.mkdir(parents=True)
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 16]) for n in ("x", "y")]
    names = ["x", *[f"h{i}" for i in range(len(weights) - 1)], "y"]
    nodes = [
        helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]], name=f"layer{i}") for i in range(len(weights))
    ]
    tensors = [numpy_helper.from_array(np.ascontiguousarray(w, np.float32), f"w{i}") for i, w in enumerate(weights)]
    graph = helper.make_graph(nodes, name, ends[:1], ends[1:], tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save(made, folder / f"{name}.onnx")
    spec = {"datatype": "FP32", "shape": [-1, 16]}
    described = {
        "name": name,
        "task": "benchmark",
        "inputs": [{"name": "x", **spec}],
        "outputs": [{"name": "y", **spec}],
        "source": {"onnx": f"{name}.onnx"},
        "build": ["fp32"],
        **more,
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(described), encoding="utf-8")
    if (summary := pipeline.build(folder)).failed:
        raise RuntimeError(f"the {name} model could not be built: {summary.failed}")
    return folder


def tiny(repository: Path) -> Served:
    """One model of 16 inputs and 16 outputs: twice the input, the other way round, so that no echo passes for it."""
    folder = layers(repository, "tiny", [2 * np.eye(16)[::-1]])
    payload = {"x": (np.arange(16, dtype=np.float32) / 16 - 0.25)[None]}
    return Served(load_model(folder), folder, ("fp32",), 1, [payload])


def example(
    repository: Path, of: str, *, threads: int, count: int = 64, variants: Sequence[str] = ("int8",), copy: str = ""
) -> Served:
    """A built example model with these variants only, the first of which everybody serves. `copy` is put behind its name:
    each copy is a model of its own, with files of its own. Raises RuntimeError where the variants are not built."""
    source, name = EXAMPLES / of, of + copy
    folder = repository / name
    folder.mkdir(parents=True)
    described = yaml.safe_load((source / "model.yaml").read_text(encoding="utf-8"))
    (folder / "model.yaml").write_text(yaml.safe_dump({**described, "name": name}), encoding="utf-8")
    for kept in ("canary.npz", "model.py"):
        shutil.copy(source / kept, folder / kept)
    for variant in variants:
        if not (source / "variants" / variant / "variant.json").is_file():
            raise RuntimeError(f"{source}: variant {variant} is not built (make models)")
        shutil.copytree(source / "variants" / variant, folder / "variants" / variant)
    model = load_model(folder)
    return Served(model, folder, variants, threads, mixed(samples(source, model, count)))


def mixed(payloads: Sequence[Mapping[str, Array]]) -> list[Mapping[str, Array]]:
    """Text at its own length, not padded to a multiple as the demo sends it: lengths are mixed."""
    cut = []
    for payload in payloads:
        if MASK in payload:
            length = int(payload[MASK].sum())
            payload = {name: np.ascontiguousarray(array[:, :length]) for name, array in payload.items()}
        cut.append(payload)
    return cut


def describe(models: Sequence[Served], path: Path) -> Path:
    """Write what the peers are told; returns the file."""
    path.write_text(json.dumps([served.describe() for served in models]), encoding="utf-8")
    return path
