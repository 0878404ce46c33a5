"""The planner's matrix is the one that scipy would make of the same triplets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from budgets.fleet.highs import Program, by_row

TRIPLETS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7), st.integers(-3, 3)), max_size=40)


@given(TRIPLETS)
def test_a_matrix_by_rows(triplets: list[tuple[int, int, int]]) -> None:
    rows, cols, values = (
        (np.array(part) for part in zip(*triplets, strict=True)) if triplets else (np.empty(0, int),) * 3
    )
    start, columns, found = by_row(rows, cols, values.astype(float), 6)
    wanted = csr_matrix((values.astype(float), (rows, cols)), shape=(6, 8))
    assert start.tolist() == wanted.indptr.tolist()
    assert columns.tolist() == wanted.indices.tolist()
    assert found.tolist() == wanted.data.tolist()
    assert (start.dtype, columns.dtype, found.dtype) == (wanted.indptr.dtype, wanted.indices.dtype, wanted.data.dtype)


def test_a_row_without_columns_holds_nothing_back() -> None:
    made = Program(2, 2)
    made.cost[:] = -1.0
    made.top[:] = 4.0
    made.row([], [], -1.0, 1.0)
    made.row([0, 1], [1.0, 1.0], -np.inf, 5.0)
    found = made.solve(seconds=5.0)
    assert found is not None
    assert found.cost == pytest.approx(-5.0)
