"""The profiles and traces that Proteus' authors published, played by every policy.

    git clone https://github.com/UMass-LIDS/Proteus
    python -m benchmarks.published Proteus --load medium-normal_load/300 [--times 4] [--shared] [--seed 0]

Of the artefact (Ahmad et al., ASPLOS 2024) these files are read: `profiling/aggregate_profiled.csv` (46 variants of nine families on
three kinds of devices), `traces/model_variants/FAMILY` (which variant is of which family) and the load's
`traces/twitter/asplos/LOAD/FAMILY.txt` (arrivals with their objectives, milliseconds). Latencies are the 90th percentiles where
there are any, quality is the accuracy over the family's best. What was not published is assumed: a variant takes 40 MB and 6 MB for
each millisecond of its single call on the CPU, half a second and a second for each 1.5 GB to load; arrivals within a second are
Poisson. `--times` multiplies the rates.
"""

from __future__ import annotations

import argparse
import csv
import math
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from budgets.replay.policies import POLICIES
from budgets.replay.profiles import PROFILE
from budgets.replay.result import HEAD, row
from budgets.replay.run import replay
from variants.errors import ConfigError

HOSTS = {"cpu": 20, "gpu_pascal": 10, "gpu_ampere": 10}
SHARED = {"cpu": 8, "gpu_pascal": 4, "gpu_ampere": 4}
ENGINE = "onnxruntime_"
#: A 90th percentile so many times the median was a stall while profiling.
STALL = 10.0


@dataclass(frozen=True)
class Call:
    """A profiled call: seconds, and the variant's accuracy."""

    seconds: float
    accuracy: float


def calls_of(artefact: Path) -> dict[tuple[str, str, int], Call]:
    """(variant, device, batch) -> its call; of one that was measured twice the first. Raises ConfigError."""
    path = artefact / "profiling" / "aggregate_profiled.csv"
    made: dict[tuple[str, str, int], Call] = {}
    for line in _rows(path):
        median, tail = float(line["50th_pct"]), float(line["90th_pct"] or 0.0)
        took = tail if 0.0 < tail < STALL * median else median
        key = line["Model"], line["Accel"].removeprefix(ENGINE), int(line["batchsize"])
        made.setdefault(key, Call(took / 1e3, float(line["Accuracy"])))
    return made


def families_of(artefact: Path) -> dict[str, str]:
    """Variant -> family. Raises ConfigError."""
    folder = artefact / "traces" / "model_variants"
    files = [f for f in sorted(folder.glob("*")) if f.is_file() and not f.name.startswith(".")]
    if not files:
        raise ConfigError(f"{folder}: no files that say which variant is of which family")
    lines = ((f.name.removesuffix(f.suffix), line) for f in files for line in f.read_text().splitlines())
    return {line.split(",")[0]: family for family, line in lines if line.strip()}


def trace_of(artefact: Path, load: str, times: float) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Requests per second by family and second, and objectives in seconds. Raises ConfigError."""
    folder = artefact / "traces" / "twitter" / "asplos" / load
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    objectives: dict[str, float] = {}
    for path in sorted(folder.glob("*.txt")):
        for line in path.read_text().splitlines():
            at, _, objective = line.split(",")
            counts[path.stem][int(float(at) // 1000)] += 1
            objectives[path.stem] = float(objective) / 1e3
    if not counts:
        raise ConfigError(f"{folder}: no FAMILY.txt there; --load names a folder below traces/twitter/asplos")
    seconds = 1 + max(max(c) for c in counts.values())
    return {f: [times * c[s] for s in range(seconds)] for f, c in counts.items()}, objectives


def write(
    artefact: Path, load: str, folder: Path, *, times: float = 1.0, shared: bool = False
) -> tuple[Path, Path, Path]:
    """cluster.yaml, profiles.csv and trace.csv of a load, in the folder. Raises ConfigError."""
    calls, families = calls_of(artefact), families_of(artefact)
    rates, objectives = trace_of(artefact, load, times)
    best: dict[str, float] = defaultdict(float)
    for (variant, _, _), call in calls.items():
        best[families[variant]] = max(best[families[variant]], call.accuracy)
    profiles = []
    for (variant, device, batch), call in calls.items():
        family, alone = families[variant], calls.get((variant, "cpu", 1), call).seconds
        size = 40e6 + 6e9 * alone
        quality = call.accuracy / best[family]
        profiles.append([family, variant, device, batch, call.seconds, round(size), 0.5 + size / 1.5e9, quality])
    hosts = [
        {"name": d, "device": d, "count": n, "memory_bytes": "8GiB", "exclusive": not shared}
        for d, n in (SHARED if shared else HOSTS).items()
    ]
    models = {f: {"slo_seconds": s} for f, s in objectives.items()}
    paths = folder / "cluster.yaml", folder / "profiles.csv", folder / "trace.csv"
    paths[0].write_text(yaml.safe_dump({"hosts": hosts, "models": models}))
    _write(paths[1], PROFILE, profiles)
    arrivals = ([s, f, r[s]] for s in range(len(next(iter(rates.values())))) for f, r in rates.items())
    _write(paths[2], ("time_seconds", "model", "requests_per_second"), arrivals)
    return paths


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="") as stream:
            return list(csv.DictReader(stream))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; the artefact is a clone of UMass-LIDS/Proteus") from error


def _write(path: Path, head: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    with path.open("w", newline="") as stream:
        lines = csv.writer(stream)
        lines.writerow(head)
        lines.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artefact", type=Path)
    parser.add_argument("--load", required=True, help="a folder below traces/twitter/asplos")
    parser.add_argument("--times", type=float, default=1.0)
    parser.add_argument(
        "--shared", action="store_true", help="16 hosts that share in place of 40 that hold one variant each"
    )
    parser.add_argument("--policy", nargs="*", default=list(POLICIES))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not 0.0 < options.times < math.inf:
        parser.error("--times: a number above 0")
    with tempfile.TemporaryDirectory() as folder:
        try:
            files = write(options.artefact, options.load, Path(folder), times=options.times, shared=options.shared)
        except ConfigError as error:
            parser.error(str(error))
        print(HEAD)
        for policy in options.policy:
            print(row(replay(*files, policy, seed=options.seed)), flush=True)


if __name__ == "__main__":
    main()
