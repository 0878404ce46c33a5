"""`make bench-density`: how many models fit in a GiB, in trimtab and in Ray Serve with one deployment for each.

    python -m benchmarks.density [--model digits-cnn] [--counts 2 8]

Copies of one example model, each with files of its own, are served and asked; what all processes of the server hold is
measured at each count. From the smallest to the largest count, the growth is what one more model costs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.models import ROOT, example
from benchmarks.servers import PEERS, running, stop_on_sigterm
from benchmarks.table import MIB, machine, markdown

OUT = ROOT / "out" / "bench" / "density.md"
SETTLE_SECONDS = 3.0


def held(peer: str, name: str, count: int) -> tuple[int, int]:
    """Bytes of RSS and PSS with so many copies of a model, each asked a few times."""
    with tempfile.TemporaryDirectory(prefix="trimtab-bench-") as scratch:
        models = [
            example(Path(scratch, "models"), name, threads=1, count=4, copy=f"-{number}") for number in range(count)
        ]
        with running(peer, models, Path(scratch), threads=1) as server:
            for model in models:
                for index in range(4):
                    server.ask(model, index)
            time.sleep(SETTLE_SECONDS)
            used = server.usage()
            return used.rss, used.pss


def lines(peer: str, taken: Mapping[int, tuple[int, int]]) -> list[list[str]]:
    """Rows of the table: what each count holds, and models per GiB, all processes counted and of what is added only."""
    few, many = min(taken), max(taken)
    rows = []
    for count, (rss, pss) in sorted(taken.items()):
        each = (taken[many][1] - taken[few][1]) / (many - few) if count == many and many > few else None
        rows.append(
            [
                peer,
                str(count),
                f"{rss / MIB:,.0f}",
                f"{pss / MIB:,.0f}",
                f"{count / (pss / 2**30):.1f}",
                "" if each is None else f"{each / MIB:.1f}",
                "" if each is None or each <= 0 else f"{2**30 / each:.0f}",
            ]
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.density", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="digits-cnn")
    parser.add_argument("--counts", type=int, nargs=2, default=[2, 12])
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=["trimtab", "ray"])
    options = parser.parse_args()
    stop_on_sigterm()
    rows = []
    for peer in options.peers:
        taken = {count: held(peer, options.model, count) for count in options.counts}
        rows += lines(PEERS[peer].title, taken)
    head = ("server", "models", "RSS MiB", "PSS MiB", "models / GiB", "MiB for one more", "more models / GiB")
    text = f"{markdown(head, rows, 1)}\n\nCopies of {options.model} (int8); models per GiB by PSS. {machine()}."
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
