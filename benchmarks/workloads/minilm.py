"""MiniLM int8 at mixed lengths: batching. As many as 32 clients get through, then open loops: at 80 % of that, at 80 % of what
trimtab got through (the same requests to every server that can), and at 80 % of what the engine alone does, called in this
process with batches of the sizes that trimtab made."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import numpy as np

from benchmarks.clients import closed_loop, message, open_loop, poisson
from benchmarks.generators import Load, LoadFailed
from benchmarks.models import Served, example
from benchmarks.peers.engine import Engine
from benchmarks.servers import Server, ServerFailed
from benchmarks.workloads.context import Context, judged
from variants.device import call_threads, calls_at_once

NAME = "minilm"
CLIENTS = 32
SHARE = 0.8
PAYLOADS = 256
WARM_CALLS = 20
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
        before = batches(server, model)
        done = _warmed(context, f"{CLIENTS} clients", server, partial(_full, server, model, number))
        if done is None:
            continue
        if server.name == "trimtab":
            made = {size: count - before.get(size, 0) for size, count in batches(server, model).items()}
            most, alone = done.rate, engine_alone(model, made, context.seconds)
            context.note(
                f"MiniLM, round {number + 1}: {server.peer.title} {done.rate:.1f}/s, the engine alone, called with batches "
                f"of the same sizes, {alone:.1f}/s: {done.rate / alone:.3f}"
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
    address = ("127.0.0.1", server.ports.http)
    results = closed_loop(messages, address, CLIENTS, seconds, lambda: int(draw.integers(PAYLOADS)))
    return judged(results, lambda r: model.right(r.request.index, r.status, r.body), seconds)


def _open(server: Server, model: Served, seed: int, rate: float, seconds: float) -> Load:
    messages = [message(server.url(model), body) for body in model.bodies]
    plan = poisson(rate, seconds, [1.0] * PAYLOADS, seed)
    results = open_loop(messages, ("127.0.0.1", server.ports.http), plan)
    return judged(results, lambda r: model.right(r.request.index, r.status, r.body), seconds)


def batches(server: Server, model: Served) -> dict[int, int]:
    """How many engine calls of each size trimtab counts; empty for other servers."""
    if server.name != "trimtab":
        return {}
    url = f"http://127.0.0.1:{server.ports.http}/v2/models/{model.name}/stats"
    told = httpx.get(url, trust_env=False).raise_for_status().json()["model_stats"][0]["batch_stats"]
    return {int(entry["batch_size"]): int(entry["compute_infer"]["count"]) for entry in told}


def engine_alone(model: Served, made: dict[int, int], seconds: float) -> float:
    """Requests per second of the engine in this process, with as many calls at once as trimtab makes, again and again with batches
    drawn from those sizes, each of requests of similar length, as a server that pads would join them."""
    threads = call_threads()
    sizes = np.array([size for size, count in made.items() if count > 0])
    counts = np.array([made[size] for size in sizes], float)
    lengths = np.array([next(iter(payload.values())).shape[1] for payload in model.payloads])
    order = np.argsort(lengths, kind="stable")

    def call(engine: Engine, draw: np.random.Generator) -> int:
        size = int(draw.choice(sizes, p=counts / counts.sum()))
        first = int(np.clip(draw.integers(len(order)) - size // 2, 0, len(order) - size))
        engine.together([model.payloads[i] for i in order[first : first + size]])
        return size

    def again_and_again(seed: int) -> int:
        engine, draw, done = Engine({**model.describe(), "threads": threads}), np.random.default_rng(seed), 0
        for _ in range(WARM_CALLS):
            call(engine, draw)
        ready.wait()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            done += call(engine, draw)
        return done

    calls = calls_at_once(threads)
    ready = threading.Barrier(calls)
    with ThreadPoolExecutor(calls) as pool:
        return sum(pool.map(again_and_again, range(calls))) / seconds
