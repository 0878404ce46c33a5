"""Puts the schema of trimtab's own configuration into the chart's values.schema.json: `python helm/config_schema.py`.

So a typo in `config` is refused by `helm install`, not by a pod that restarts. Run it after a change of the settings; a
test fails until that is done. The rest of values.schema.json is written by hand and only laid out anew.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from budgets.config import parse_bytes
from server.settings import Settings

SCHEMA = Path(__file__).parent / "trimtab" / "values.schema.json"
WIDTH = 118
#: What the chart decides itself, by model: these keys are no values. "" is the file's top level.
OWNED: dict[str, tuple[str, ...]] = {
    "": ("repository", "config_path"),
    "ServerConfig": (
        "host",
        "http_port",
        "grpc_port",
        "admin_host",
        "admin_port",
        "max_body_bytes",
        "allow_unauthenticated",
        "auth",
        "tls",
    ),
    "LimitsConfig": ("header_bytes", "head_seconds", "streams", "connections", "requests"),
    "MetricsConfig": ("port", "ray_port"),
    "ControllerConfig": ("source", "prometheus", "journal"),
}
SIZE = {
    "anyOf": [
        {"type": "integer", "minimum": 0},
        {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*(([KkMmGg][Ii]?)?[Bb])?\s*$"},
    ]
}
DROPPED = ("title", "description", "default", "ge", "gt")


class _Sizes(GenerateJsonSchema):
    """Sizes are also accepted as text with a unit, which pydantic's own schema does not know."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        if schema["function"]["function"] is parse_bytes:
            return SIZE
        return super().function_before_schema(schema)


def config_schema() -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of `config`, and the definitions it refers to, named `config.<model>`."""
    raw = Settings.model_json_schema(schema_generator=_Sizes, ref_template="#/$defs/config.{model}")
    definitions = {name: _plain(body) for name, body in raw.pop("$defs").items()}
    top = _plain(raw)
    for name, keys in OWNED.items():
        model = definitions[name] if name else top
        for key in keys:
            del model["properties"][key]
        required = [key for key in model.pop("required", []) if key not in keys]
        if required:
            model["required"] = required
    used = _references(top)
    queue = list(used)
    while queue:
        for name in _references(definitions[queue.pop()]) - used:
            used.add(name)
            queue.append(name)
    return top, {f"config.{name}": definitions[name] for name in sorted(used)}


def _plain(node: Any) -> Any:
    """Without what only documents. A property may be called `default`: only keywords are dropped, not names."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {k: _plain(v) for k, v in node.items() if k not in (*DROPPED, "properties")}
    if "properties" in node:
        kept["properties"] = {name: _plain(body) for name, body in node["properties"].items()}
    return kept


def _references(node: Any) -> set[str]:
    if isinstance(node, list):
        return set().union(*(_references(item) for item in node)) if node else set()
    if not isinstance(node, dict):
        return set()
    found = set().union(*(_references(value) for value in node.values())) if node else set()
    if isinstance(ref := node.get("$ref"), str):
        found.add(ref.removeprefix("#/$defs/config."))
    return found


def render(value: Any, indent: int = 0) -> str:
    """JSON with every value that fits on one line."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + indent <= WIDTH or not isinstance(value, (dict, list)) or not value:
        return flat
    pad = " " * (indent + 2)
    if isinstance(value, list):
        lines = [pad + render(item, indent + 2) for item in value]
        return "[\n" + ",\n".join(lines) + "\n" + " " * indent + "]"
    lines = [f"{pad}{json.dumps(key)}: {render(item, indent + 2)}" for key, item in value.items()]
    return "{\n" + ",\n".join(lines) + "\n" + " " * indent + "}"


def updated(text: str) -> str:
    """The chart's schema with the settings as they are now."""
    schema = json.loads(text)
    top, definitions = config_schema()
    schema["properties"]["config"] = top
    by_hand = {name: body for name, body in schema["$defs"].items() if not name.startswith("config.")}
    schema["$defs"] = {**by_hand, **definitions}
    return render(schema) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(updated(SCHEMA.read_text(encoding="utf-8")), encoding="utf-8")
