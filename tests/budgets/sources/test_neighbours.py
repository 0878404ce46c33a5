"""Memory of processes that are not trimtab's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from budgets.config import Budget, Neighbour
from budgets.exposition import NEIGHBOUR_MEMORY
from budgets.sources.neighbours import NeighbourCollector, measure

MIB = 2**20
HOLD = "import sys; held = bytearray(b'x' * (%d << 20)); print('ready', flush=True); sys.stdin.read()"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLD % 60!r}])"


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[bytes]]:
    """A process whose child holds 60 MiB."""
    process = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    yield process
    process.communicate()


def test_a_process_counts_with_its_children(parent: subprocess.Popen[bytes], tmp_path: Path) -> None:
    by_pid = measure(Neighbour(name="n", pid=parent.pid))
    (tmp_path / "pid").write_text(f"{parent.pid}\n")
    by_file = measure(Neighbour(name="n", pid_file=str(tmp_path / "pid")))
    assert 60 * MIB < by_pid < 200 * MIB
    assert by_file == pytest.approx(by_pid, rel=0.1)


def test_one_that_is_not_running_uses_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert measure(Neighbour(name="n", pid=process.pid)) == 0
    assert measure(Neighbour(name="n", pid_file=str(tmp_path / "absent"))) == 0
    (tmp_path / "empty").write_text("")
    assert measure(Neighbour(name="n", pid_file=str(tmp_path / "empty"))) == 0


def test_a_cgroup_is_read_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "memory.current").write_text("12345\n")
    assert measure(Neighbour(name="n", cgroup=str(tmp_path))) == 12345


def test_one_that_cannot_be_measured_is_left_out_of_the_exposition(tmp_path: Path) -> None:
    neighbours = (Neighbour(name="gone", cgroup=str(tmp_path / "gone")), Neighbour(name="me", pid=os.getpid()))
    registry = CollectorRegistry()
    registry.register(
        NeighbourCollector([Budget(name="b", resource="ram", scope="trimtab", neighbours=neighbours)])  # type: ignore[arg-type]
    )
    lines = [x for x in generate_latest(registry).decode().splitlines() if not x.startswith("#")]
    assert len(lines) == 1
    assert lines[0].startswith(f'{NEIGHBOUR_MEMORY}{{neighbour="me"}} ')
