"""The lengths at which padded inputs are run.

An engine keeps something for every shape that it has run (compiled kernels, plans), so what a variant keeps in memory
grows with the number of lengths that clients happen to send. Padded inputs are therefore filled up to the next of a few
lengths: each up to 12, then six in every doubling. A single request is filled up by a seventh at most, and the usual limits
of models (128, 384, 512, 2048) are among them.
"""

from __future__ import annotations

from bisect import bisect_left

EXACT = 12
PER_DOUBLING = 6
DOUBLINGS = 17


def _bounds() -> list[int]:
    bounds = list(range(1, EXACT + 1))
    for doubling in range(DOUBLINGS):
        step = (EXACT << doubling) // PER_DOUBLING
        bounds += [bounds[-1] + step * n for n in range(1, PER_DOUBLING + 1)]
    return bounds


#: Every length at which something is run, ascending.
BOUNDS = _bounds()
#: Longer inputs are run at their own length.
LONGEST = BOUNDS[-1]


def bucket(length: int) -> int:
    """Index in `BOUNDS` of the length at which one of 1 to `LONGEST` is run."""
    return bisect_left(BOUNDS, length)


def run_at(length: int) -> int:
    """The length at which one of 1 to `LONGEST` is run."""
    return BOUNDS[bisect_left(BOUNDS, length)]


def whole(rows: int, largest: int) -> int:
    """The most rows, of at most `rows`, that a call of few different sizes has: a power of two, or `largest`."""
    return largest if rows >= largest else 1 << (rows.bit_length() - 1)
