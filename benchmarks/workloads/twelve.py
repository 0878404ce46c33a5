"""Twelve models at once with skewed traffic: what packing them costs in memory and latency."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.clients import Request, Result, message, open_loop, poisson, zipf
from benchmarks.generators import Load
from benchmarks.models import TWELVE, Served, example
from benchmarks.servers import Server
from benchmarks.workloads.context import Context, judged

NAME = "twelve"
#: Requests per second, all models together: what every server of the comparison carries on two cores.
RATE = 60.0
PAYLOADS = 32


def run(context: Context) -> None:
    """The same open loop on every server, round after round."""
    models = [
        example(context.scratch / "models", of, threads=context.threads, count=PAYLOADS, copy=copy)
        for of, copy in TWELVE
    ]
    pairs = [(model, index) for model in models for index in range(len(model.payloads))]
    weights = [
        weight / len(model.payloads)
        for model, weight in zip(models, zipf(len(models)), strict=True)
        for _ in model.payloads
    ]
    for number, server in context.servers(models, threads=context.threads):
        for model in models:
            for index in range(8):
                server.ask(model, index)
        plan = poisson(RATE, context.seconds, weights, number)
        case = f"{RATE:.0f} requests/s, Zipf"
        context.measure(NAME, case, server, partial(_one, server, pairs, plan, context.seconds))


def _one(server: Server, pairs: Sequence[tuple[Served, int]], plan: Sequence[Request], seconds: float) -> Load:
    messages = [message(server.url(model), model.bodies[index]) for model, index in pairs]
    results = open_loop(messages, server.ports.http, plan, seconds)

    def right(result: Result) -> bool:
        model, index = pairs[result.request.index]
        return model.right(index, result.status, result.body)

    return judged(results, right, seconds)
