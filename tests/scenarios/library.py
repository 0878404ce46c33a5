"""Scenarios for the simulator, made and not stored: each is a cluster, its profiles, a trace and events.

Three fleets. `pool`: twenty devices of three kinds, each holding one variant at a time, five families of six variants; the
shape of Proteus' testbed (Ahmad et al., ASPLOS 2024) at half its size. `shared`: three hosts that hold twelve models
side by side in too little memory. `company`: sixteen that hold models side by side whose calls are unequally long.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

SECONDS = 300
GIB = 2**30
MIB = 2**20
SPEED = {"cpu": 1.0, "gtx": 5.0, "v100": 9.0, "node": 1.0}
BATCHES = (1, 2, 4, 8, 16)
#: relative work, quality, memory of a family's variants, best first
FAMILY = (
    (1.0, 1.0, 1.0),
    (0.7, 0.985, 0.8),
    (0.48, 0.965, 0.62),
    (0.33, 0.94, 0.5),
    (0.22, 0.905, 0.4),
    (0.14, 0.86, 0.3),
)
LADDER = ((1.0, 1.0, 1.0), (0.62, 0.996, 0.78), (0.36, 0.985, 0.5), (0.2, 0.93, 0.28))


@dataclass
class Scenario:
    """Rates by second and model, with everything around them."""

    cluster: dict[str, Any]
    profiles: list[dict[str, Any]]
    rates: dict[str, np.ndarray]
    events: list[dict[str, Any]] = field(default_factory=list)

    def write(self, folder: Path) -> tuple[Path, Path, Path]:
        """cluster.yaml, profiles.csv and trace.csv in the folder."""
        paths = folder / "cluster.yaml", folder / "profiles.csv", folder / "trace.csv"
        paths[0].write_text(yaml.safe_dump({**self.cluster, "events": self.events}))
        with paths[1].open("w", newline="") as stream:
            rows = csv.DictWriter(stream, self.profiles[0])
            rows.writeheader()
            rows.writerows(self.profiles)
        with paths[2].open("w", newline="") as stream:
            lines = csv.writer(stream)
            lines.writerow(["time_seconds", "model", "requests_per_second"])
            for second in range(SECONDS):
                lines.writerows([second, m, round(float(r[second]), 3)] for m, r in self.rates.items())
        return paths


def _profiles(models: dict[str, tuple[float, float]], ladder: Any, devices: tuple[str, ...]) -> list[dict[str, Any]]:
    """models: milliseconds of the best variant on a device of speed 1, and its MiB."""
    return [
        {
            "model": model,
            "variant": f"v{index}",
            "device": device,
            "batch": batch,
            "latency_seconds": round(ms / 1e3 * work / SPEED[device] * (0.4 + 0.6 * batch), 6),
            "memory_bytes": int(mib * memory * MIB),
            "load_seconds": round(0.3 + mib * memory / 1000, 3),
            "quality": quality,
        }
        for model, (ms, mib) in models.items()
        for index, (work, quality, memory) in enumerate(ladder)
        for device in devices
        for batch in BATCHES
    ]


POOL_MODELS = {
    "resnet": (110.0, 600.0),
    "bert": (160.0, 1300.0),
    "yolo": (220.0, 900.0),
    "vit": (140.0, 1100.0),
    "gpt": (260.0, 1800.0),
}
POOL_SHARES = {"resnet": 0.34, "bert": 0.26, "yolo": 0.14, "vit": 0.16, "gpt": 0.1}
#: Milliseconds, MiB and objective of models some of whose calls take longer than others can wait.
COMPANY_MODELS = {
    "resnet": (110.0, 600.0, 0.3),
    "bert": (160.0, 1300.0, 0.2),
    "yolo": (220.0, 900.0, 0.5),
    "vit": (140.0, 1100.0, 0.3),
    "gpt": (1500.0, 1800.0, 0.8),
}
COMPANY_SHARES = {"resnet": 0.38, "bert": 0.22, "yolo": 0.16, "vit": 0.18, "gpt": 0.06}
SHARED_MODELS = {f"m{i:02d}": (6.0 + 2.5 * (i % 5), 260.0 + 90.0 * (i % 4)) for i in range(12)}
SHARED_SHARES = {m: 1.0 / (i + 1) for i, m in enumerate(SHARED_MODELS)}


def pool(total: np.ndarray, size: int, events: list[dict[str, Any]] | None = None, **shares: np.ndarray) -> Scenario:
    """`total` requests per second over the exclusive fleet, by second; `shares` replace single models' shares. `size`
    times the hosts and the requests."""
    kinds = (("cpu", 10 * size), ("gtx", 5 * size), ("v100", 5 * size))
    hosts = [
        {"name": k, "device": k, "count": n, "memory_bytes": "16GiB", "streams": 1, "exclusive": True} for k, n in kinds
    ]
    default = {"slo_seconds": 0.4}
    cluster = {"hosts": hosts, "tick_seconds": 1, "default": default}
    rates = {m: size * total * shares.get(m, np.full(SECONDS, share)) for m, share in POOL_SHARES.items()}
    return Scenario(cluster, _profiles(POOL_MODELS, FAMILY, ("cpu", "gtx", "v100")), rates, events or [])


def shared(
    total: np.ndarray, size: int, events: list[dict[str, Any]] | None = None, gib: float = 2.4, **shares: np.ndarray
) -> Scenario:
    """`total` requests per second over the hosts that share; `size` times both."""
    host = {"name": "node", "device": "node", "count": 3 * size, "memory_bytes": int(gib * GIB), "streams": 4}
    cluster = {"hosts": [host], "tick_seconds": 1, "default": {"slo_seconds": 0.15, "park": False}}
    whole = sum(SHARED_SHARES.values())
    rates = {m: size * total * shares.get(m, np.full(SECONDS, share / whole)) for m, share in SHARED_SHARES.items()}
    return Scenario(cluster, _profiles(SHARED_MODELS, LADDER, ("node",)), rates, events or [])


def company(total: np.ndarray, size: int) -> Scenario:
    """`total` requests per second over hosts of three kinds that share, one call at a time; `size` times both."""
    kinds = (("cpu", 8 * size), ("gtx", 4 * size), ("v100", 4 * size))
    hosts = [{"name": k, "device": k, "count": n, "memory_bytes": "8GiB", "streams": 1} for k, n in kinds]
    models = {m: {"slo_seconds": slo} for m, (_, _, slo) in COMPANY_MODELS.items()}
    cluster = {"hosts": hosts, "tick_seconds": 1, "models": models}
    rates = {m: size * total * np.full(SECONDS, share) for m, share in COMPANY_SHARES.items()}
    profiles = {m: (ms, mib) for m, (ms, mib, _) in COMPANY_MODELS.items()}
    return Scenario(cluster, _profiles(profiles, FAMILY, ("cpu", "gtx", "v100")), rates)


T = np.arange(SECONDS)


def _noise(number: int, size: float, seed: int) -> np.ndarray:
    """Slow noise around 1: what real rates do within a minute; another for each scenario's number and each seed."""
    draw = np.random.default_rng(number + 1000 * seed).normal(0, size, SECONDS // 5 + 2)
    return np.exp(np.interp(T, np.arange(len(draw)) * 5, draw))


def diurnal(seed: int = 0, size: int = 1) -> Scenario:
    return pool((950 - 650 * np.cos(2 * math.pi * T / SECONDS)) * _noise(1, 0.06, seed), size)


def flash_crowd(seed: int = 0, size: int = 1) -> Scenario:
    surge = np.where((T >= 100) & (T < 170), 3.4, 1.0)
    return pool(500 * np.convolve(np.pad(surge, 2, mode="edge"), np.ones(5) / 5, "valid") * _noise(2, 0.05, seed), size)


def slow_leak(seed: int = 0, size: int = 1) -> Scenario:
    events = [
        {"time_seconds": t, "event": "neighbour_bytes", "target": "node", "value": int(min(t - 40, 180) * 7.5 * MIB)}
        for t in range(40, SECONDS, 2)
    ]
    return shared(700 * _noise(3, 0.05, seed), size, events)


def neighbour_burst(seed: int = 0, size: int = 1) -> Scenario:
    events = [
        {"time_seconds": at, "event": "neighbour_bytes", "target": "node", "value": int(value * GIB)}
        for at, value in [(80 + k, 0.22 * (k + 1)) for k in range(6)] + [(180, 0.0)]
    ]
    return shared(700 * _noise(4, 0.05, seed), size, events)


def host_loss(seed: int = 0, size: int = 1) -> Scenario:
    events = [
        {"time_seconds": 90, "event": "hosts", "target": "v100", "value": 3 * size},
        {"time_seconds": 200, "event": "hosts", "target": "v100", "value": 5 * size},
    ]
    return pool(1000 * _noise(5, 0.05, seed), size, events)


def sawtooth(seed: int = 0, size: int = 1) -> Scenario:
    return pool(np.where(T % 40 < 20, 1150, 800) * _noise(6, 0.03, seed), size)


def all_peak(seed: int = 0, size: int = 1) -> Scenario:
    return pool(np.where(T < 60, 500, np.minimum(500 + (T - 60) * 10.0, 2200)) * _noise(7, 0.04, seed), size)


def cold_storm(seed: int = 0, size: int = 1) -> Scenario:
    """Ten models that nobody asked for are asked for all at once."""
    cold = {m: np.where(T < 100, 0.002, 0.09) for m in list(SHARED_MODELS)[2:]}
    warm = {m: np.where(T < 100, 0.49, 0.05) for m in list(SHARED_MODELS)[:2]}
    return shared(700 * _noise(8, 0.05, seed), size, gib=1.3, **cold, **warm)


def slow_hosts(seed: int = 0, size: int = 1) -> Scenario:
    """Calls take twice their profile from a minute on: every estimate is wrong by 2."""
    events = [{"time_seconds": 60, "event": "slowdown", "target": g, "value": 2.0} for g in ("cpu", "gtx", "v100")]
    return pool(650 * _noise(9, 0.05, seed), size, events)


def _gusty(made: Scenario, seed: int) -> Scenario:
    """Its rates scattered by a quarter from one second to the next, each model's by itself, as those of recorded traces are."""
    draw = np.random.default_rng(77 + seed)
    made.rates = {m: r * np.exp(draw.normal(-0.03, 0.25, SECONDS)) for m, r in made.rates.items()}
    return made


def gusts(seed: int = 0, size: int = 1) -> Scenario:
    """Rates that scatter."""
    return _gusty(pool(800 * _noise(10, 0.05, seed), size), seed)


def long_calls(seed: int = 0, size: int = 1) -> Scenario:
    """Rates that scatter, on hosts where a call of one model may be longer than another one's objective."""
    return _gusty(company((300 - 100 * np.cos(2 * math.pi * T / SECONDS)) * _noise(11, 0.05, seed), size), seed)


#: Made by (seed of the noise, size of the fleet and its load).
SCENARIOS: dict[str, Callable[..., Scenario]] = {
    "diurnal": diurnal,
    "flash-crowd": flash_crowd,
    "slow-leak": slow_leak,
    "neighbour-burst": neighbour_burst,
    "host-loss": host_loss,
    "sawtooth": sawtooth,
    "all-models-peak": all_peak,
    "cold-model-storm": cold_storm,
    "estimates-wrong-by-2": slow_hosts,
    "gusts": gusts,
    "long-calls": long_calls,
}
