from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from protos import open_inference_pb2 as pb

CHECKS = (
    "health_and_metadata",
    "every_datatype",
    "every_datatype_as_json",
    "ids_parameters_versions_and_requested_outputs",
    "empty_and_zero_batch",
    "wrong_requests",
    "repository_and_statistics",
)


@pytest.fixture(scope="session")
def results(protocol_server: Any) -> dict[str, Any]:
    """What unmodified Triton clients found, in one process of their own."""
    script = Path(__file__).with_name("triton_checks.py")
    command = [sys.executable, str(script), str(protocol_server.http), str(protocol_server.grpc)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("transport", ["http", "grpc"])
@pytest.mark.parametrize("name", CHECKS)
def test_unmodified_triton_clients(results: dict[str, Any], transport: str, name: str) -> None:
    assert results[f"{transport}:{name}"] == ""


def test_our_messages_are_those_published(results: dict[str, Any]) -> None:
    published = results["descriptors"]
    pending = list(pb.DESCRIPTOR.message_types_by_name.values())
    compared = 0
    while pending:
        message = pending.pop()
        pending += message.nested_types
        for field in message.fields:
            theirs = published[message.full_name].get(field.name)
            assert theirs == [field.number, field.type, field.is_repeated], f"{message.full_name}.{field.name}"
            compared += 1
    assert compared > 80
