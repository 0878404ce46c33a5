"""What a workload is given, and what all of them do: start the servers, account for a run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.clients import Result
from benchmarks.generators import Load, LoadFailed
from benchmarks.models import Served
from benchmarks.servers import PEERS, Server, ServerFailed, running
from benchmarks.table import Sample


@dataclass
class Context:
    """`threads`: of an engine call of the peers; `instances`: of a model that calls come together for, where a peer can have several.
    `notes` says what could not be measured, and what the table has no column for."""

    peers: Sequence[str]
    rounds: int
    seconds: float
    threads: int
    instances: int
    scratch: Path
    samples: list[Sample] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        print(text, flush=True)

    def servers(self, models: Sequence[Served], *, threads: int, instances: int = 1) -> Iterator[tuple[int, Server]]:
        """Each peer in turn, alone on the machine, in each round (its number from 0): started for it, and stopped when the
        next one is asked for. One that cannot be started is noted with its reason, and not tried again."""
        left = list(self.peers)
        for number in range(self.rounds):
            for name in tuple(left):
                with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
                    try:
                        with running(name, models, Path(folder), threads=threads, instances=instances) as server:
                            yield number, server
                    except ServerFailed as error:
                        self.note(f"{PEERS[name].title}: {error}")
                        left.remove(name)

    def note(self, text: str) -> None:
        self.say(text)
        self.notes.append(f"- {text}")

    def measure(self, workload: str, case: str, server: Server, load: Callable[[], Load]) -> Load | None:
        """One run of a load on a server, between two looks at what its processes used. A run with a wrong answer is
        noted, not counted."""
        before = server.usage()
        try:
            done = load()
        except (LoadFailed, ServerFailed) as error:
            self.note(f"{workload}, {case}, {server.peer.title}: {error}")
            return None
        after = server.usage()
        cpu = after.cpu_since(before) / done.answers * 1000
        sample = Sample(
            workload, case, server.peer.title, done.rate, done.p50, done.p99, cpu, after.rss, after.pss, done.answers
        )
        self.samples.append(sample)
        self.say(
            f"{workload}, {case}, {server.name}: {done.rate:,.1f}/s, p50 {done.p50:.2f} ms, p99 {done.p99:.2f} ms, "
            f"{cpu:.3f} CPU s per 1,000, RSS {after.rss >> 20} MiB, PSS {after.pss >> 20} MiB"
        )
        return done


def judged(results: Sequence[Result], check: Callable[[Result], bool], seconds: float) -> Load:
    """What the answers to a plan come to; latency counts from when a request was due. Raises LoadFailed when one is
    wrong or absent."""
    wrong = [result for result in results if not check(result)]
    if wrong or not results:
        first = wrong[0] if wrong else None
        told = "" if first is None else f", the first: {first.status} {first.body[:200]!r}"
        raise LoadFailed(f"{len(wrong)} of {len(results)} answers were wrong or did not come{told}")
    taken = np.array([result.ended - result.request.at for result in results]) * 1e3
    p50, p99 = np.quantile(taken, (0.5, 0.99)).tolist()
    span = max(seconds, max(result.ended for result in results))
    return Load(len(results) / span, p50, p99, len(results))
