"""The host of `protocol_server` in this process, for tests that compare ways to reach it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import yaml
from prometheus_client import CollectorRegistry

from deployments.config import Batching, HostConfig
from deployments.host import ModelHost
from server.http_api import Limits
from tests.server.protocol_server import Numpy, catalog

LIMITS = Limits(max_body_bytes=1 << 20, body_seconds=2.0)


def host_of_tests(batching: Batching | None = None) -> ModelHost:
    """Not started."""
    return ModelHost(
        catalog(),
        HostConfig(threads=1, concurrent_batches=4, batching=batching or Batching()),
        registry=CollectorRegistry(),
        host_id="test",
        load=Numpy,
        check=lambda folder, variant: None,
        read_canary=lambda folder: None,
    )


def tokens_file(folder: Path) -> Path:
    """Callers who may infer, read, or infer with one other model only; their tokens are `infers`, `reads`, `narrow`."""
    callers = [
        {"name": "infers", "roles": ["infer"]},
        {"name": "reads", "roles": ["read"]},
        {"name": "narrow", "roles": ["infer"], "models": ["pair"]},
    ]
    for caller in callers:
        caller["sha256"] = hashlib.sha256(str(caller["name"]).encode()).hexdigest()
    path = folder / "tokens.yaml"
    path.write_text(yaml.safe_dump(callers))
    return path
