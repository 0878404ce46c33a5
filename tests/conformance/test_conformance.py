"""trimtab's answers beside those that a real Triton gave to the same requests (`triton.json`; `make conformance`)."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SERVER = HERE.parent / "server" / "protocol_server.py"


@pytest.fixture(scope="session")
def comparing() -> Any:
    """`comparing.py`: the tests are no package."""
    spec = importlib.util.spec_from_file_location("comparing", HERE / "comparing.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["comparing"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def server(free_port: Callable[[], int]) -> Iterator[tuple[int, int]]:
    """A server of its own: what was asked of it before counts in its statistics."""
    ports = (free_port(), free_port())
    command = [sys.executable, str(SERVER), *map(str, ports)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        yield ports
    finally:
        process.terminate()
        process.wait(20)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(scope="session")
def ours(server: tuple[int, int]) -> dict[str, Any]:
    """In a process of its own: the clients' protobuf stubs clash with ours."""
    command = [sys.executable, str(HERE / "driver.py"), *map(str, server)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_every_case_is_answered_as_by_the_oracle_or_for_a_reason(comparing: Any, ours: dict[str, Any]) -> None:
    recorded = comparing.recorded()
    assert len(recorded) > 400
    found = comparing.differences(recorded, ours)
    left, stale = comparing.unexplained(found, comparing.reasons())
    assert left == []
    assert [reason.title for reason in stale] == []


def test_the_page_lists_every_reason(comparing: Any) -> None:
    page = (HERE.parent.parent / "docs" / "conformance.md").read_text(encoding="utf-8")
    for reason in comparing.reasons():
        assert f"| {reason.title} | {' '.join(reason.why.split())} |" in page


def test_a_difference_is_found_wherever_it_is(comparing: Any) -> None:
    oracle = {"a": {"status": 200, "json": {"outputs": [{"name": "y", "data": [1, 2]}]}}, "b": {"code": "OK"}}
    assert comparing.differences(oracle, json.loads(json.dumps(oracle))) == []
    other = {"a": {"status": 200, "json": {"outputs": [{"name": "y", "data": [1, 3], "more": 1}]}}}
    found = comparing.differences(oracle, other)
    assert [(d.case, d.field) for d in found] == [
        ("a", "json.outputs[0].data"),
        ("a", "json.outputs[0].more"),
        ("b", "code"),
    ]
    known = [
        comparing.Reason("one", "", ("a",), r"json\..*"),
        comparing.Reason("two", "", ("z",), ".*"),
    ]
    left, stale = comparing.unexplained(found, known)
    assert [(d.case, d.field) for d in left] == [("b", "code")]
    assert [reason.title for reason in stale] == ["two"]
