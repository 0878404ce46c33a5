"""MiniLM int8 at mixed lengths: batching. As many as 32 clients get through, then open loops: at 80 % of that, at 80 % of what
trimtab got through (the same requests to every server that can), and at 80 % of what the engine alone does, called in this
process with the same batches: of the sizes that trimtab made, as much of them padding."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import httpx
import numpy as np

from benchmarks.clients import closed_loop, message, open_loop, poisson
from benchmarks.generators import Load, LoadFailed
from benchmarks.models import Served, example
from benchmarks.peers.engine import Engine
from benchmarks.servers import Server, ServerFailed
from benchmarks.workloads.context import Context, judged
from budgets.exposition import PADDING, POSITIONS
from budgets.sources.series import parse
from variants.device import call_threads, calls_at_once
from variants.engines.base import Array
from variants.lengths import run_at

NAME = "minilm"
CLIENTS = 32
SHARE = 0.8
PAYLOADS = 256
#: Of the same load before each measurement: the first call of a shape is not how it goes on.
WARM_SECONDS = 3.0


def run(context: Context) -> None:
    """Each server's capacity, then its latency at 80 % of it, but never of more than trimtab's, which comes first; then at 80 %
    of trimtab's and of the engine's, where the server's capacity is more than that."""
    model = example(context.scratch / "models", "minilm", threads=context.threads, count=PAYLOADS)
    most = np.inf
    alone = np.inf
    for number, server in context.servers([model], threads=context.threads, instances=context.instances):
        for index in range(0, PAYLOADS, 8):
            server.ask(model, index)
        before = calls(server, model)
        done = _warmed(context, f"{CLIENTS} clients", server, partial(_full, server, model, number))
        if done is None:
            continue
        if server.name == "trimtab":
            made = calls(server, model).since(before)
            calls_alone = similar(model, made)
            most, alone = done.rate, engine_alone(model, calls_alone, context.seconds)
            context.note(
                f"MiniLM, round {number + 1}: {server.peer.title} {done.rate:.1f}/s, the engine alone, called with batches "
                f"of the same sizes, {alone:.1f}/s: {done.rate / alone:.3f} (padding: {made.padding:.3f} of trimtab's positions, "
                f"{wasted(model, calls_alone):.3f} of the engine's)"
            )
        loops = {"capacity": min(most, done.rate), "trimtab's capacity": most, "the engine alone": alone}
        for of, whole in loops.items():
            if (rate := SHARE * whole) < done.rate:
                case = f"open loop, {SHARE:.0%} of {of}"
                _warmed(context, case, server, partial(_open, server, model, number, rate))


def _warmed(context: Context, case: str, server: Server, load: Callable[[float], Load]) -> Load | None:
    with contextlib.suppress(LoadFailed, ServerFailed):  # it is said of the measurement, if that fails, too
        load(WARM_SECONDS)
    return context.measure(NAME, case, server, partial(load, context.seconds))


def _full(server: Server, model: Served, seed: int, seconds: float) -> Load:
    draw = np.random.default_rng(seed)
    messages = [message(server.url(model), body) for body in model.bodies]
    results = closed_loop(messages, server.ports.http, CLIENTS, seconds, lambda: int(draw.integers(PAYLOADS)))
    return judged(results, lambda r: model.right(r.request.index, r.status, r.body), seconds)


def _open(server: Server, model: Served, seed: int, rate: float, seconds: float) -> Load:
    messages = [message(server.url(model), body) for body in model.bodies]
    plan = poisson(rate, seconds, [1.0] * PAYLOADS, seed)
    results = open_loop(messages, server.ports.http, plan, seconds)
    return judged(results, lambda r: model.right(r.request.index, r.status, r.body), seconds)


@dataclass(frozen=True)
class Calls:
    """Engine calls: how many of each number of rows, and their positions (rows times length), of which some are padding."""

    sizes: Mapping[int, int]
    padded: float
    positions: float

    def since(self, before: Calls) -> Calls:
        """Those that were made after the others."""
        sizes = {size: count - before.sizes.get(size, 0) for size, count in self.sizes.items()}
        return Calls(sizes, self.padded - before.padded, self.positions - before.positions)

    @property
    def padding(self) -> float:
        """The share of the positions that is padding."""
        return self.padded / self.positions if self.positions else 0.0


def calls(server: Server, model: Served) -> Calls:
    """What trimtab counts; nothing for other servers."""
    if server.name != "trimtab":
        return Calls({}, 0.0, 0.0)
    http = f"http://127.0.0.1:{server.ports.http}"
    told = (
        httpx.get(f"{http}/v2/models/{model.name}/stats", trust_env=False).raise_for_status().json()["model_stats"][0]
    )
    sizes = {int(entry["batch_size"]): int(entry["compute_infer"]["count"]) for entry in told["batch_stats"]}
    counted = parse(httpx.get(f"{http}/metrics", trust_env=False).raise_for_status().text, (PADDING, POSITIONS))
    padded, positions = (counted.get((name, (("model", model.name),)), 0.0) for name in (PADDING, POSITIONS))
    return Calls(sizes, padded, positions)


#: Payloads by their index: what is called together.
Batches = Sequence[Sequence[int]]


def similar(model: Served, made: Calls, count: int = 512, seed: int = 0) -> Batches:
    """So many batches of the sizes that were made, of requests so unequal in length that as much of them is padding."""
    draw = np.random.default_rng(seed)
    sizes = np.array([size for size, calls in made.sizes.items() if calls > 0])
    shares = np.array([made.sizes[size] for size in sizes], float)
    drawn = draw.choice(sizes, count, p=shares / shares.sum())
    order = np.argsort([_length(payload) for payload in model.payloads], kind="stable")
    middles = draw.integers(len(order), size=count)

    def spread(step: int) -> Batches:
        """Every `step`th of the requests by length, `size` of them around a middle."""
        found = []
        for size, middle in zip(drawn, middles, strict=True):
            first = int(np.clip(middle - size * step // 2, 0, len(order) - 1 - (size - 1) * step))
            found.append([int(i) for i in order[first : first + size * step : step]])
        return found

    tried = [spread(step) for step in range(1, (len(order) - 1) // max(1, int(sizes.max()) - 1))]
    return min(tried, key=lambda batches: abs(wasted(model, batches) - made.padding))


def wasted(model: Served, batches: Batches) -> float:
    """The share of these batches' positions that is padding, run as trimtab runs them."""
    lengths = [_length(payload) for payload in model.payloads]
    positions = sum(len(batch) * run_at(max(lengths[i] for i in batch)) for batch in batches)
    return 1.0 - sum(lengths[i] for batch in batches for i in batch) / positions


def _length(payload: Mapping[str, Array]) -> int:
    return int(next(iter(payload.values())).shape[1])


def engine_alone(model: Served, made: Batches, seconds: float) -> float:
    """Requests per second of the engine in this process, with as many calls at once as trimtab makes, again and again with these
    batches, each filled up to a length at which trimtab runs it."""
    threads = call_threads()
    joined = [_joined(model, batch) for batch in made]

    def again_and_again(seed: int) -> int:
        engine, draw, done = Engine({**model.describe(), "threads": threads}), np.random.default_rng(seed), 0
        for inputs in joined:  # the first call of a shape is not how it goes on
            engine(inputs)
        ready.wait()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            inputs = joined[int(draw.integers(len(joined)))]
            engine(inputs)
            done += len(inputs[model.model.inputs[0].name])
        return done

    abreast = calls_at_once(threads)
    ready = threading.Barrier(abreast)
    with ThreadPoolExecutor(abreast) as pool:
        return sum(pool.map(again_and_again, range(abreast))) / seconds


def _joined(model: Served, batch: Sequence[int]) -> dict[str, Array]:
    length = run_at(max(_length(model.payloads[i]) for i in batch))
    return {
        name: np.concatenate(
            [
                np.pad(part, [(0, 0), (0, length - part.shape[1])], constant_values=model.model.pad[name])
                for part in (model.payloads[i][name] for i in batch)
            ]
        )
        for name in model.payloads[0]
    }
