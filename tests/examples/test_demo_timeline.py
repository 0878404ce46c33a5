from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import numpy as np

from examples.demo import timeline
from examples.demo.record import Recording


def _size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


def _has(path: Path, colour: str) -> bool:
    pixels = matplotlib.image.imread(path)[..., :3]
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return bool((np.abs(pixels - wanted).max(axis=-1) < 0.02).any())


def test_stretches_meet(recording: Recording) -> None:
    found = timeline.stretches(recording.moments, "big")
    assert [variant for *_, variant in found] == ["fp32", "int8", "fp32", "int8", "fp32"]
    assert all(before[1] == after[0] for before, after in itertools.pairwise(found))
    assert found[0][0] == recording.moments[0].at
    assert found[-1][1] == recording.moments[-1].at
    assert found[1][0] - recording.started == 22.0


def test_a_picture_is_drawn(recording: Recording, tmp_path: Path) -> None:
    timeline.draw(recording, tmp_path / "t.png")
    width, height = _size(tmp_path / "t.png")
    assert width > 1000
    assert height > 700
    assert _has(tmp_path / "t.png", timeline.RUNGS[0])
    assert _has(tmp_path / "t.png", timeline.RUNGS[1])
    assert _has(tmp_path / "t.png", timeline.LIMIT)
    assert _has(tmp_path / "t.png", timeline.USAGE)


def test_a_run_cut_short_is_drawn_too(change: Callable[..., Recording], tmp_path: Path) -> None:
    cut = change(moments=(), answers=(), neighbour=(), phases=(), decisions=(), sent=0)
    timeline.draw(cut, tmp_path / "t.png")
    assert _size(tmp_path / "t.png")[0] > 1000
    assert not _has(tmp_path / "t.png", timeline.USAGE)
