from __future__ import annotations

import pytest

from benchmarks.beside import table


def test_ratios_are_taken_round_by_round() -> None:
    rates = {"fp32": {8: [100.0, 50.0, 100.0]}, "int8": {8: [300.0, 200.0, 250.0]}}
    rows = table(rates, {"fp32": 1.0, "int8": 0.997})
    assert rows[2] == "| fp32 | 8 | 100.0 | 1.00 (1.00, 1.00) | 1.0000 |"
    assert rows[3] == "| int8 | 8 | 250.0 | 3.00 (2.50, 4.00) | 0.9970 |"


def test_rounds_that_do_not_pair_are_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        table({"a": {1: [1.0]}, "b": {1: [1.0, 2.0]}}, {"a": 1.0, "b": 1.0})
