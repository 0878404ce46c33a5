"""Which variants `trimtab profile` measures."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from server.profiling import profile_model
from variants import profiler
from variants.catalog import Entry, Profile
from variants.device import call_threads, fingerprint


def test_a_profile_with_other_threads_says_nothing(
    affine_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models" / "alpha"
    shutil.copytree(affine_repository / "alpha", folder)
    monkeypatch.setattr(profiler, "measure", _measure)
    every = call_threads() + 1
    assert set(profile_model(folder, threads=every)[0]) == {"full", "lite", "broken"}
    assert profile_model(folder, threads=every) == ([], {})
    assert profile_model(folder, only="lite") == (["lite"], {})  # with what a host gives a call
    assert profile_model(folder, only="lite", threads=call_threads()) == ([], {})
    assert profile_model(folder, threads=every) == (["lite"], {})
    assert profile_model(folder, only="lite", threads=every, force=True) == (["lite"], {})


def _measure(folder: Path, entry: Entry, name: str, *, threads: int | None) -> tuple[Profile, None]:
    return Profile(
        device=fingerprint(),
        threads=threads or call_threads(),
        resident_bytes=1,
        load_seconds=0.1,
        warmup_seconds=0.1,
        batches=(),
        quality=1.0,
    ), None
