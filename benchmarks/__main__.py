"""`make bench`: trimtab beside its peers, on the same cores with the same models and payloads, in interleaved rounds.

    python -m benchmarks [--workload tiny minilm twelve] [--peers trimtab triton …] [--rounds 3] [--seconds 5] [--threads 1]

Peers get environments of their own below `.cache/bench`, made on first use. What is measured is printed, and written to
`out/bench`: `table.md`, `figure.png`, and `samples.json`, which keeps the servers and workloads that were not measured this time.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from benchmarks import figure, table
from benchmarks.models import ROOT
from benchmarks.servers import PEERS, stop_on_sigterm
from benchmarks.workloads import minilm, tiny, twelve
from benchmarks.workloads.context import Context

WORKLOADS = {workload.NAME: workload.run for workload in (tiny, minilm, twelve)}
OUT = ROOT / "out" / "bench"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--cores", type=int, default=2, help="that the servers and the load generator share")
    parser.add_argument("--threads", type=int, help="of an engine call of the peers; default: a thread for each core")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[: options.cores]
    os.sched_setaffinity(0, cores)  # what is started inherits it
    stop_on_sigterm()
    kept: list[table.Sample] = []
    notes: list[str] = []
    for workload in options.workload:
        with tempfile.TemporaryDirectory(prefix="trimtab-bench-") as scratch:
            threads = options.threads or len(cores)
            instances = max(1, len(cores) // threads)
            context = Context(options.peers, options.rounds, options.seconds, threads, instances, Path(scratch))
            WORKLOADS[workload](context)
            kept = table.keep(
                OUT / "samples.json", context.samples, list(WORKLOADS), [peer.title for peer in PEERS.values()]
            )
            notes += context.notes
    report = table.report(kept, notes)
    (OUT / "table.md").write_text(report + "\n", encoding="utf-8")
    figure.draw(table.rows(kept), OUT / "figure.png")
    print(report)


if __name__ == "__main__":
    main()
