from __future__ import annotations

import re
from pathlib import Path

import pytest

from variants.errors import BuildError
from variants.figure import draw, front_of
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
    for name in ("fp32", "int8", "worse"):
        assert text.count(f"<!-- {name} -->") == 2
    assert text.count("<!-- minilm: the ladder's rungs") == 1
    assert "<!-- later -->" not in text
    assert "#9aa0a6" in text
    draw("minilm", ROWS, tmp_path / "ladder.png")
    assert (tmp_path / "ladder.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="minilm: nothing to draw: no variant is profiled on this device"):
        draw("minilm", ROWS[3:], tmp_path / "ladder.png")


def test_the_line_of_a_panel_joins_what_is_best_there() -> None:
    assert front_of([(3.0, 0.9), (1.0, 0.5), (2.0, 0.95), (1.0, 0.6), (4.0, 0.95)]) == [(1.0, 0.6), (2.0, 0.95)]
    assert front_of([]) == []


def test_names_of_points_close_together_do_not_cover_each_other(tmp_path: Path) -> None:
    close = [Row(f"variant-{i}", "openvino", i, 0.99 - i * 1e-4, None, None, (60 + i) << 20, 0.01) for i in range(6)]
    draw("m", [*close, Row("far", "openvino", 6, 0.5, None, None, 400 << 20, 0.1)], tmp_path / "l.svg")
    text = (tmp_path / "l.svg").read_text()
    places = re.findall(r"<!-- variant-\d -->\s*<g[^>]*transform=\"translate\(([\d.]+) ([\d.]+)\)", text)
    assert len(places) == 12
    heights = sorted(float(y) for x, y in places[:6])
    assert len({(round(float(x)), round(float(y))) for x, y in places}) == 12
    assert heights[-1] - heights[0] > 15
