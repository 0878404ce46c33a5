"""`trimtab search --address` on a Ray cluster of two nodes on this machine."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from variants.build import pipeline

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]
MODEL = """
import numpy as np
import torch
from torch import nn


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)).eval()


def samples():
    return {"x": np.random.default_rng(0).normal(size=(96, 8)).astype(np.float32)}
"""
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20})
cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture
def address() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield next(line for line in process.stdout if re.match(r"[\d.]+:\d+$", line)).strip()
    finally:
        process.communicate(timeout=60)


def small(folder: Path, **fields: object) -> None:
    """A model with its reference built."""
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(MODEL)
    document = {
        "name": "small",
        "task": "test",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 8]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}],
        "source": {"factory": "model.py:network"},
        "data": {"calibration": "model.py:samples", "evaluation": "model.py:samples"},
        **fields,
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(document))
    assert pipeline.build(folder, ["fp32"]).failed == {}


def test_two_nodes_search_on_one_study(address: str, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "small"
    small(folder, techniques={"prune": {"steps": 2}})
    command = [sys.executable, "-m", "server.cli", "search", str(folder), "--minutes", "0.2", "--trials"]
    done = subprocess.run(
        [*command, "6", "--address", address], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"small: \d trials measured on 2 nodes, \d stopped early, 0 failed; added search-", done.stdout), (
        done.stdout + done.stderr
    )
    variants = {p.name for p in (folder / "variants").iterdir()}
    assert any(name.startswith("search-") for name in variants)
    # The same study goes on without the cluster.
    study = next(folder.glob(".search/*/study.db"))
    with sqlite3.connect(study) as database:
        before = database.execute("select count(*) from trials where state = 'COMPLETE'").fetchone()[0]
    assert before >= 5
    again = subprocess.run([*command, "1"], capture_output=True, text=True, timeout=200, check=False)
    assert again.returncode == 0, again.stderr
    assert int(again.stdout.split()[1]) == before + 1 or "1 failed" in again.stdout


def test_two_nodes_end_when_all_was_tried(address: str, tmp_path: Path) -> None:
    """Without data there are the finishes of the graph only, and of those int8 needs some."""
    folder = tmp_path / "models" / "small"
    small(folder, data={})
    command = [sys.executable, "-m", "server.cli", "search", str(folder), "--minutes", "10", "--address", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counted = re.search(r"small: (\d) trials measured on 2 nodes, 0 stopped early, (\d) failed", done.stdout)
    assert counted is not None, done.stdout + done.stderr
    assert 5 <= int(counted[1]) + int(counted[2]) < 10
    assert "ended early: all that there is to try for this model was tried" in done.stderr
