"""The description at /openapi.json, and what schemathesis makes of it: no answer that is not described, none of 500."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from server.openapi import document

HERE = Path(__file__).parent
MODELS = ("echo_FP32", "", "pair", "single", "repeat")


#: What remains afterwards may be this much more than before: allocators keep some.
SLACK = 48 << 20


@pytest.fixture(scope="module")
def server(free_port: Callable[[], int]) -> Iterator[tuple[str, int]]:
    """A server of its own: generated requests unload models. Its address and its pid."""
    port = free_port()
    command = [sys.executable, str(HERE / "protocol_server.py"), str(port), str(free_port())]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait(20)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def url(server: tuple[str, int]) -> str:
    return server[0]


def test_every_reference_leads_somewhere_and_every_operation_is_described() -> None:
    made = document("1.2")
    assert made["info"]["version"] == "1.2"
    names: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if "$ref" in value:
                names.add(value["$ref"].removeprefix("#/components/schemas/"))
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(made)
    assert names <= set(made["components"]["schemas"])
    for path, item in made["paths"].items():
        operations = {method: item[method] for method in ("get", "post") if method in item}
        assert operations, path
        for operation in operations.values():
            assert operation["summary"]
            assert operation["responses"]


def test_it_is_served(url: str) -> None:
    assert httpx.get(f"{url}/openapi.json", trust_env=False).json()["openapi"] == "3.1.0"


@pytest.mark.parametrize("examples", [2, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_generated_requests(server: tuple[str, int], examples: int) -> None:
    import hypothesis
    import schemathesis

    url, pid = server
    before = psutil.Process(pid).memory_info().rss

    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    # Not `not_a_server_error`: 501 (not offered) and 503 (unloaded) are answers; and what a model takes is its own affair.
    names = ("status_code_conformance", "content_type_conformance", "response_schema_conformance")
    checks = schemathesis.checks.CHECKS.get_by_names(names)
    done = set()
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):

            @hypothesis.settings(
                max_examples=examples,
                deadline=None,
                database=None,
                derandomize=True,
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
            def check(case: Any) -> None:
                if "model" in case.path_parameters:  # one that is there, as a rule
                    known = MODELS[len(str(case.body)) % len(MODELS)]
                    case.path_parameters["model"] = known or case.path_parameters["model"]
                answer = case.call()
                assert answer.status_code != 500, answer.text
                case.validate_response(answer, checks=checks)

            with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # nothing in it can be wrong
                check()
                done.add((operation.method, operation.path))
    described = {(m, p) for p, item in schema.raw_schema["paths"].items() for m in item if m in ("get", "post")}
    assert done >= described - {("get", "/openapi.json")}
    assert httpx.get(f"{url}/v2/health/live", trust_env=False).status_code == 200
    assert psutil.Process(pid).memory_info().rss < before + SLACK
