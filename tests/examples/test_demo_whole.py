"""The demo itself, as `make demo` runs it. Minutes long: part of `make check-slow`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_pressure_is_relieved_and_no_request_fails() -> None:
    done = subprocess.run([sys.executable, "-m", "examples.demo"], cwd=ROOT, timeout=880)
    assert done.returncode == 0
    report = json.loads((ROOT / "out/demo/report.json").read_text())
    assert report["requests"]["failed"] == 0
    assert report["requests"]["total"] >= 3000
    swaps = [swap for phase in report["phases"] for swap in phase["swaps"]]
    assert {swap["outcome"] for swap in swaps} == {"done"}
    for phase in report["phases"]:
        assert phase["relief_seconds"] <= 15
        assert phase["quality_during"] < phase["quality_before"] == phase["quality_after"]
    planned, measured = (sum(swap[f"bytes_{kind}"] for swap in swaps) for kind in ("planned", "measured"))
    assert measured >= 0.7 * planned
