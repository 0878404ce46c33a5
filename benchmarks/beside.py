"""Variants of a model beside each other in one process, their calls alternating: throughput as ratios, and quality.

    python -m benchmarks.beside [--folder examples/models/minilm] [--variants fp32 int8 ...]

Measured as `trimtab profile` measures, but in turns: what disturbs the machine for a while disturbs all of them. The first
variant is what the others are compared with.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from variants import engines, profiler
from variants.catalog import Entry
from variants.data import batches
from variants.device import default_threads
from variants.engines.base import Array, Engine, LoadRequest
from variants.measure import EVALUATION_BATCH, measure_batches
from variants.quality import concatenate, quality
from variants.repository import load_catalog, variant_folder

MODEL = Path(__file__).parent.parent / "examples" / "models" / "minilm"
#: Requests per second by the variant's name and the batch, one number a round.
Rates = dict[str, dict[int, list[float]]]


def opened(folder: Path, entry: Entry, names: Sequence[str]) -> dict[str, Engine]:
    """The variants' engines by their names."""

    def load(name: str) -> Engine:
        request = LoadRequest(
            entry.model, entry.variants[name], variant_folder(folder, name), threads=default_threads()
        )
        return engines.load(request)

    return {name: load(name) for name in names}


def measure(
    entry: Entry, loaded: dict[str, Engine], data: dict[str, Array], sizes: Sequence[int], rounds: int, seconds: float
) -> Rates:
    """Each engine in turn, `rounds` times over, for about `seconds` a batch size."""
    rates: Rates = {name: {size: [] for size in sizes} for name in loaded}
    for _ in range(rounds):
        for name, engine in loaded.items():
            for found in measure_batches(engine, entry.model, data, sizes, seconds):
                rates[name][int(found["batch"])].append(found["throughput"])
    return rates


def table(rates: Rates, qualities: dict[str, float]) -> list[str]:
    """Rows of Markdown: medians over the rounds, and the median, least and largest of the rounds' ratios to the first."""
    first = next(iter(rates.values()))
    rows = ["| variant | batch | a second | times the first (least, most) | quality |", "|---|---|---|---|---|"]
    for name, sizes in rates.items():
        for size, found in sizes.items():
            ratios = [mine / theirs for mine, theirs in zip(found, first[size], strict=True)]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}, {max(ratios):.2f})"
            rows.append(f"| {name} | {size} | {statistics.median(found):.1f} | {spread} | {qualities[name]:.4f} |")
    return rows


def main(folder: Path, names: Sequence[str], sizes: Sequence[int], rounds: int, seconds: float) -> None:
    """Measure and print."""
    entry = load_catalog(folder.parent).entries[folder.name]
    data = profiler.evaluation_data(folder, entry)
    loaded = opened(folder, entry, names)
    outputs = {
        name: concatenate([engine.infer(part) for part in batches(entry.model, data, EVALUATION_BATCH)])
        for name, engine in loaded.items()
    }
    expected = outputs[names[0]]
    qualities = {name: quality(entry.model.metric, found, expected) for name, found in outputs.items()}
    rates = measure(entry, loaded, data, sizes, rounds, seconds)
    print("\n".join(table(rates, qualities)))
    best = {name: max(statistics.median(found) for found in by_size.values()) for name, by_size in rates.items()}
    print("at best: " + ", ".join(f"{n} {b:.1f} ({b / best[names[0]]:.2f})" for n, b in best.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=MODEL)
    parser.add_argument("--variants", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=0.5, help="For each batch size, in every round.")
    given = parser.parse_args()
    main(given.folder.resolve(), given.variants, given.batches, given.rounds, given.seconds)
