from __future__ import annotations

from pathlib import Path

import pytest

from variants.errors import BuildError
from variants.figure import draw
from variants.pareto import Row

ROWS = [
    Row("fp32", "openvino", 0, 1.0, 1.0, 1.0, 160 << 20, 0.03, 40.0, 0.5),
    Row("int8", "openvino", 1, 0.997, 0.996, 0.998, 70 << 20, 0.004, 300.0, 0.5),
    Row("worse", "openvino", None, 0.9, None, None, 90 << 20, 0.02, 50.0, 0.5),
    Row("later", "openvino", None),
]


def test_every_measured_variant_is_named_and_the_dominated_ones_are_grey(tmp_path: Path) -> None:
    draw("minilm", ROWS, tmp_path / "ladder.svg")
    text = (tmp_path / "ladder.svg").read_text()
    for name in ("fp32", "int8", "worse", "minilm"):
        assert text.count(f"<!-- {name} -->") == (1 if name == "minilm" else 2)
    assert "<!-- later -->" not in text
    assert "#9aa0a6" in text
    draw("minilm", ROWS, tmp_path / "ladder.png")
    assert (tmp_path / "ladder.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="minilm: nothing to draw: no variant is profiled on this device"):
        draw("minilm", ROWS[3:], tmp_path / "ladder.png")
