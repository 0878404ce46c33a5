"""What each server is told before it starts: its files and its command, on loopback ports of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.models import ROOT, Served

PEERS = ROOT / "benchmarks" / "peers"
#: Starts a real Triton from PyPI's package, and ends it with its own input.
TRITON = ROOT / "tests" / "conformance" / "oracle.py"


@dataclass(frozen=True)
class Ports:
    """`other`: for metrics, where a server has a port for them."""

    http: int
    grpc: int
    admin: int
    other: int


@dataclass(frozen=True)
class Plan:
    """`python`: the interpreter of the server's environment; `folder`: for its files; `threads`: of each peer's engine, of which
    Triton has so many `instances` (trimtab has its own defaults)."""

    python: str
    folder: Path
    models: Sequence[Served]
    ports: Ports
    threads: int
    instances: int = 1


def trimtab(plan: Plan) -> list[str]:
    """As `trimtab serve` runs it: HAProxy in front, the controller beside it."""
    settings = {
        "repository": str(plan.models[0].folder.parent),
        "server": {"http_port": plan.ports.http, "grpc_port": plan.ports.grpc, "admin_port": plan.ports.admin},
        "controller": {"journal": str(plan.folder / "journal.jsonl")},
    }
    path = plan.folder / "trimtab.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return [plan.python, "-m", "server.cli", "serve", "--config", str(path)]


def ray(plan: Plan) -> list[str]:
    return [plan.python, "-m", "benchmarks.peers.ray_app", str(plan.ports.http), str(plan.ports.grpc)]


def litserve(plan: Plan) -> list[str]:
    return [plan.python, "-m", "benchmarks.peers.litserve_app", str(plan.ports.http)]


def bentoml(plan: Plan) -> list[str]:
    service = "benchmarks.peers.bentoml_app:Peer"
    return [plan.python, "-m", "bentoml", "serve", service, "--host", "127.0.0.1", "--port", str(plan.ports.http)]


def mlserver(plan: Plan) -> list[str]:
    """Models in the server's own process, which is quicker here than its default of a process beside it."""
    settings = {
        "host": "127.0.0.1",
        "http_port": plan.ports.http,
        "grpc_port": plan.ports.grpc,
        "metrics_port": plan.ports.other,
        "parallel_workers": 0,
        "debug": False,
    }
    (plan.folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    for model in plan.models:
        folder = plan.folder / model.name
        folder.mkdir()
        told = {"name": model.name, "implementation": "benchmarks.peers.mlserver_app.Peer"}
        (folder / "model-settings.json").write_text(json.dumps(told), encoding="utf-8")
    return [str(Path(plan.python).with_name("mlserver")), "start", str(plan.folder)]


def triton(plan: Plan) -> list[str]:
    """Its dynamic batcher joins what waits, of unequal lengths too where the model pads."""
    repository = plan.folder / "repository"
    for served in plan.models:
        model = served.model
        folder = repository / model.name / "1"
        folder.mkdir(parents=True)
        (folder / "model.py").write_text((PEERS / "triton_model.py").read_text(encoding="utf-8"), encoding="utf-8")
        lines = [
            f'name: "{model.name}"',
            'backend: "python"',
            f"max_batch_size: {model.max_batch}",
            f"instance_group [{{ kind: KIND_CPU, count: {plan.instances} }}]",
            "dynamic_batching { }",
        ]
        for kind, specs in (("input", model.inputs), ("output", model.outputs)):
            for spec in specs:
                ragged = ", allow_ragged_batch: true" if kind == "input" and model.pad else ""
                dims = list(spec.shape[1:])
                lines.append(
                    f'{kind} [{{ name: "{spec.name}", data_type: TYPE_{spec.datatype}, dims: {dims}{ragged} }}]'
                )
        (folder.parent / "config.pbtxt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [plan.python, str(TRITON), str(repository), str(plan.ports.http), str(plan.ports.grpc)]
