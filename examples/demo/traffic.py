"""Open-loop traffic in a process of its own: Poisson arrivals for each model, over HTTP and gRPC with Triton's clients.

Usage: python -m examples.demo.traffic --http HOST:PORT --grpc HOST:PORT --models FOLDER [--seed N]

Reads JSON lines on stdin: `{"rates": {"minilm": 6.0}}` (requests per second, from now on) and `{"stop": true}`; the end
of stdin stops too. Writes JSON lines on stdout: `{"ready": [names]}` when it can send, then twice a second
`{"answers": [[due, model, seconds, variant, protocol]], "failures": [[due, model, protocol, error]], "sent": n,
"cpu_seconds": c}` and at last the same with `"done": true`. `due` is the unix time at which a request was to be sent, and
`seconds` counts from then on: a client that falls behind does not hide the server's lateness.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio

from examples.demo.payloads import problem, samples
from variants.catalog import Model
from variants.engines.base import Array
from variants.repository import load_model

REPORT_SECONDS = 0.5
#: No request waits longer for its answer than this; then it has failed.
TIMEOUT_SECONDS = 30.0
SAMPLES = 64
CONNECTIONS = 256
#: How soon a changed rate is noticed by a model that waits for its next request.
NOTICE_SECONDS = 0.1


class Client(Protocol):
    """Sends one request; returns the outputs by name (None: absent) and the variant that answered. Raises on an error."""

    async def infer(self, model: str, sample: int) -> tuple[dict[str, Array | None], str]: ...

    async def close(self) -> None: ...


class HttpClient:
    """Triton's HTTP client with binary tensors both ways. `requests`: for each model, its samples."""

    def __init__(self, address: str, models: dict[str, Model], requests: dict[str, list[dict[str, Array]]]) -> None:
        self._client = triton_http_aio.InferenceServerClient(
            address, conn_limit=CONNECTIONS, conn_timeout=TIMEOUT_SECONDS
        )
        self._inputs = {name: [_inputs(triton_http, models[name], s) for s in rows] for name, rows in requests.items()}
        self._outputs = {
            name: [triton_http.InferRequestedOutput(o.name, binary_data=True) for o in model.outputs]
            for name, model in models.items()
        }
        self._names = {name: [o.name for o in model.outputs] for name, model in models.items()}

    async def infer(self, model: str, sample: int) -> tuple[dict[str, Array | None], str]:
        call = self._client.infer(model, self._inputs[model][sample], outputs=self._outputs[model])
        answer = await asyncio.wait_for(call, TIMEOUT_SECONDS)
        variant = answer.get_response().get("parameters", {}).get("variant", "")
        return {name: answer.as_numpy(name) for name in self._names[model]}, variant

    async def close(self) -> None:
        await self._client.close()


class GrpcClient:
    """Triton's gRPC client. `requests`: for each model, its samples."""

    def __init__(self, address: str, models: dict[str, Model], requests: dict[str, list[dict[str, Array]]]) -> None:
        self._client = triton_grpc_aio.InferenceServerClient(address)
        self._inputs = {name: [_inputs(triton_grpc, models[name], s) for s in rows] for name, rows in requests.items()}
        self._names = {name: [o.name for o in model.outputs] for name, model in models.items()}

    async def infer(self, model: str, sample: int) -> tuple[dict[str, Array | None], str]:
        answer = await self._client.infer(model, self._inputs[model][sample], client_timeout=TIMEOUT_SECONDS)
        variant = answer.get_response().parameters["variant"].string_param
        return {name: answer.as_numpy(name) for name in self._names[model]}, variant

    async def close(self) -> None:
        await self._client.close()


def _inputs(module: Any, model: Model, sample: dict[str, Array]) -> list[Any]:
    made = []
    for spec in model.inputs:
        array = sample[spec.name]
        tensor = module.InferInput(spec.name, list(array.shape), spec.datatype)
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


@dataclass
class Traffic:
    """The generator. `clients` by protocol; each request picks one at random. `samples`: how many each model has."""

    models: dict[str, Model]
    clients: dict[str, Client]
    samples: dict[str, int]
    seed: int = 0
    rates: dict[str, float] = field(default_factory=dict)
    sent: int = 0
    answers: list[tuple[float, str, float, str, str]] = field(default_factory=list)
    failures: list[tuple[float, str, str, str]] = field(default_factory=list)
    _flying: set[asyncio.Task[None]] = field(default_factory=set)

    async def drive(self, model: str) -> None:
        """Send one model's requests at its rate of the moment, until cancelled."""
        rng = random.Random(f"{self.seed} {model}")
        protocols = sorted(self.clients)
        due, rate = time.time(), 0.0
        while True:
            now = time.time()
            if self.rates.get(model, 0.0) != rate:
                # Arrivals have no memory: the next one at the new rate is as far from now as from the last one.
                rate = self.rates.get(model, 0.0)
                due = now + (rng.expovariate(rate) if rate > 0 else 0.0)
            if rate <= 0:
                await asyncio.sleep(NOTICE_SECONDS)
                continue
            if due > now:
                await asyncio.sleep(min(due - now, NOTICE_SECONDS))
                continue
            task = asyncio.create_task(
                self._send(model, rng.choice(protocols), rng.randrange(self.samples[model]), due)
            )
            self.sent += 1
            self._flying.add(task)
            task.add_done_callback(self._flying.discard)
            due += rng.expovariate(rate)

    async def _send(self, model: str, protocol: str, sample: int, due: float) -> None:
        try:
            outputs, variant = await self.clients[protocol].infer(model, sample)
            wrong = problem(self.models[model], outputs) or ("" if variant else "the answer names no variant")
        except Exception as error:
            wrong, variant = f"{type(error).__name__}: {error}"[:300], ""
        if wrong:
            self.failures.append((due, model, protocol, wrong))
        else:
            self.answers.append((round(due, 4), model, round(time.time() - due, 6), variant, protocol))

    def report(self) -> dict[str, Any]:
        """What came back since the last call, JSON-able."""
        answers, self.answers = self.answers, []
        failures, self.failures = self.failures, []
        return {"answers": answers, "failures": failures, "sent": self.sent, "cpu_seconds": time.process_time()}

    async def finish(self) -> None:
        """Wait for every request under way; each ends by its own timeout at the latest."""
        if self._flying:
            await asyncio.wait(set(self._flying))


async def run(traffic: Traffic, read: Callable[[], Any], write: Callable[[dict[str, Any]], None]) -> None:
    """Drive until told to stop. `read` returns the next line of orders (awaitable), empty at the end."""
    write({"ready": sorted(traffic.models)})
    drivers = [asyncio.create_task(traffic.drive(model)) for model in traffic.models]

    async def tell() -> None:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            write(traffic.report())

    teller = asyncio.create_task(tell())
    while line := await read():
        order = json.loads(line)
        if order.get("stop"):
            break
        unknown = set(order["rates"]) - set(traffic.models)
        if unknown:
            raise SystemExit(f"no such models: {', '.join(sorted(unknown))}; there are {', '.join(traffic.models)}")
        traffic.rates = {**traffic.rates, **order["rates"]}
    for task in drivers:
        task.cancel()
    await asyncio.gather(*drivers, return_exceptions=True)
    await traffic.finish()
    teller.cancel()
    write({**traffic.report(), "done": True})


async def _main(options: argparse.Namespace) -> None:
    folders = sorted(p.parent for p in options.models.glob("*/model.yaml"))
    models = {folder.name: load_model(folder) for folder in folders}
    requests = {folder.name: samples(folder, models[folder.name], SAMPLES) for folder in folders}
    clients: dict[str, Client] = {
        "http": HttpClient(options.http, models, requests),
        "grpc": GrpcClient(options.grpc, models, requests),
    }
    traffic = Traffic(models, clients, {name: len(rows) for name, rows in requests.items()}, options.seed)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    def write(line: dict[str, Any]) -> None:
        print(json.dumps(line), flush=True)

    try:
        await run(traffic, reader.readline, write)
    finally:
        for client in clients.values():
            await client.close()


def main() -> None:
    """Entry point of the process."""
    parser = argparse.ArgumentParser(description="Open-loop traffic; see the module's text for its orders and answers.")
    parser.add_argument("--http", required=True, help="HOST:PORT")
    parser.add_argument("--grpc", required=True, help="HOST:PORT")
    parser.add_argument("--models", required=True, type=Path, help="the model repository")
    parser.add_argument("--seed", type=int, default=0)
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
