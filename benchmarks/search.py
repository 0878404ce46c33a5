"""A search beside the ladder that model.yaml names: does its front dominate or equal every rung made by hand?

python -m benchmarks.search [--model DIGITS_CNN_FOLDER] [--minutes 10] [--folder KEEP]

The model is copied without what a search added to it, every variant that model.yaml names is built and measured where it
is not yet, and then searched for as many minutes as given, by the commands that a user types.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from variants import pareto
from variants.build.publish import PREFIX
from variants.build.workshop import FOLDER
from variants.repository import load_catalog

MODEL = Path(__file__).parent.parent / "examples" / "models" / "digits-cnn"


@dataclass(frozen=True)
class Compared:
    """A rung made by hand, and the best of the front after the search that is no worse in any respect (None: none is)."""

    rung: pareto.Point
    by: pareto.Point | None

    @property
    def verdict(self) -> str:
        """In a word."""
        if self.by is None:
            return "missed"
        if self.by.name == self.rung.name:
            return "stays"
        return "dominated" if pareto.dominates(self.by, self.rung) else "equalled"


def compare(by_hand: Sequence[pareto.Point], everything: Sequence[pareto.Point], floor: float = 0.0) -> list[Compared]:
    """Each rung of the ladder made by hand beside the front of everything: what dominates it first, then what equals it,
    itself last."""
    after = pareto.front([p for p in everything if p.quality >= floor])

    def rank(rung: pareto.Point, found: pareto.Point) -> tuple[bool, bool, float]:
        return (pareto.dominates(found, rung), found.name != rung.name, found.quality)

    made = []
    for rung in pareto.front([p for p in by_hand if p.quality >= floor]):
        good = [p for p in after if pareto.no_worse(p, rung)]
        made.append(Compared(rung, max(good, key=lambda p: rank(rung, p), default=None)))
    return made


def points(folder: Path) -> list[pareto.Point]:
    """Every variant of a model that was measured on this machine."""
    catalog = load_catalog(folder.parent)
    variants = catalog.entries[folder.name].variants
    measured = {n: v.profile(catalog.device) for n, v in variants.items()}
    return [pareto.point(variants[n], p) for n, p in measured.items() if p is not None and p.batches]


def main(source: Path, root: Path, minutes: float) -> int:
    """Build, measure, search, print; 1 when a rung is missed."""
    folder = root / source.name
    if not folder.is_dir():
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns(f"{PREFIX}*", FOLDER, "__pycache__"))
    _type("build", str(folder), "--all", accepted=(0, 1))  # what cannot be built is no rung
    _type("profile", str(folder))
    by_hand = [p for p in points(folder) if not p.name.startswith(PREFIX)]
    _type("search", str(folder), "--minutes", str(minutes))
    floor = load_catalog(root).entries[source.name].model.floor
    rows = compare(by_hand, points(folder), floor)
    print(f"{'rung':<18}{'quality':>8}{'ms':>8}{'MiB':>8}   {'after the search':<18}{'quality':>8}{'ms':>8}{'MiB':>8}")
    for row in rows:
        print(f"{_words(row.rung)}   {_words(row.by)}  {row.verdict}")
    return int(any(row.by is None for row in rows))


def _words(point: pareto.Point | None) -> str:
    if point is None:
        return f"{'nothing':<42}"
    return f"{point.name:<18}{point.quality:>8.4f}{point.seconds * 1000:>8.3f}{point.resident_bytes / 2**20:>8.2f}"


def _type(*arguments: str, accepted: Sequence[int] = (0,)) -> None:
    command = [sys.executable, "-m", "server.cli", *arguments]
    ended = subprocess.run(command, stderr=subprocess.DEVNULL, check=False)
    if ended.returncode not in accepted:
        raise SystemExit(f"{' '.join(command)} ended with {ended.returncode}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--folder", type=Path, help="Keep what is built here, and go on from it.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(main(given.model.resolve(), (given.folder or Path(temporary)).resolve(), given.minutes))
