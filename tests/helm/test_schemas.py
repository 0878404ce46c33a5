"""The reduced schemas say what the CRDs say."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.helm.rendering import SCHEMAS

CRDS = os.environ.get("TRIMTAB_CRDS")


@pytest.fixture(scope="module")
def reduce() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reduce_schemas", SCHEMAS / "reduce.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_definitions_change_nothing(reduce: ModuleType) -> None:
    part: dict[str, Any] = {"type": "object", "properties": {f"property{i}": {"type": "string"} for i in range(9)}}
    schema = {"type": "object", "properties": {"a": part, "b": {"type": "array", "items": part}, "description": part}}
    made = reduce.shared(schema)
    assert len(json.dumps(made)) < len(json.dumps(schema))
    assert reduce.expanded(made) == schema


def test_only_what_documents_is_left_out(reduce: ModuleType) -> None:
    schema = {"description": "x", "properties": {"default": {"type": "string", "default": "y"}}, "enum": ["z"]}
    assert reduce.plain(schema) == {"properties": {"default": {"type": "string"}}, "enum": ["z"]}


@pytest.mark.skipif(CRDS is None, reason="TRIMTAB_CRDS names no folder of published CRDs")
@pytest.mark.parametrize("name", ["rayservice.json", "podmonitor.json", "prometheusrule.json"])
def test_the_schemas_are_those_of_the_published_crds(reduce: ModuleType, name: str) -> None:
    here = json.loads((SCHEMAS / name).read_text(encoding="utf-8"))
    assert reduce.expanded(here) == reduce.published(Path(str(CRDS)) / reduce.SOURCES[name])
