from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from budgets.config import Neighbour as NeighbourConfig
from budgets.sources.neighbours import measure
from examples.demo.neighbour import Hoard
from examples.demo.processes import DemoFailed, Neighbour
from variants.process import pss

MIB = 2**20
SIZE = 100 * MIB


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "not within 30 s"
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path: Path) -> Callable[[], Neighbour]:
    return lambda: Neighbour(SIZE, 2e9, tmp_path / "n.pid", tmp_path / "n.log")


def test_a_hoard_takes_and_frees_real_memory() -> None:
    hoard = Hoard()
    before = pss()
    hoard.take(64 * MIB)
    taken = pss()
    hoard.free()
    after = pss()
    assert taken - before >= 60 * MIB
    assert after - before <= 16 * MIB
    assert hoard.bytes == 0


def test_it_takes_what_the_budget_counts_and_gives_it_back(start: Callable[[], Neighbour], tmp_path: Path) -> None:
    seen = NeighbourConfig(name="n", pid_file=str(tmp_path / "n.pid"))
    assert measure(seen) == 0
    neighbour = start()
    try:
        until(lambda: neighbour.bytes == SIZE)
        assert int((tmp_path / "n.pid").read_text()) == neighbour.process.pid
        assert measure(seen) >= SIZE
    finally:
        neighbour.leave()
    assert neighbour.process.returncode == 0
    assert not (tmp_path / "n.pid").exists()
    assert measure(seen) == 0
    assert [size for _, size in neighbour.held][-2:] == [SIZE, 0]
    assert [at for at, _ in neighbour.held] == sorted(at for at, _ in neighbour.held)


def test_a_sigterm_makes_it_leave_in_order(start: Callable[[], Neighbour], tmp_path: Path) -> None:
    neighbour = start()
    until(lambda: neighbour.bytes == SIZE)
    os.kill(neighbour.process.pid, signal.SIGTERM)
    until(lambda: neighbour.process.poll() is not None)
    assert neighbour.process.returncode == 0
    assert not (tmp_path / "n.pid").exists()
    with pytest.raises(DemoFailed, match="neighbour process ended with 0"):
        neighbour.check()
    neighbour.leave()
