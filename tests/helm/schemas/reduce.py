"""Makes the schemas beside this file from the CRDs that their projects publish.

    python tests/helm/schemas/reduce.py FOLDER

FOLDER has `ray.io_rayservices.yaml`, `monitoring.coreos.com_podmonitors.yaml`, … as published. What only documents is left
out, and `status`; subtrees that occur more than once become definitions. A test compares the result, definitions put
back, with the CRDs where TRIMTAB_CRDS names such a folder.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

#: Schema by CRD.
SOURCES = {
    "rayservice.json": "ray.io_rayservices.yaml",
    "podmonitor.json": "monitoring.coreos.com_podmonitors.yaml",
    "prometheusrule.json": "monitoring.coreos.com_prometheusrules.yaml",
}
DROPPED = {
    "default", "description", "x-kubernetes-list-map-keys", "x-kubernetes-list-type", "x-kubernetes-map-type",
    "x-kubernetes-validations",
}  # fmt: skip
#: Characters of a subtree that is worth a definition.
WORTH = 120


def plain(node: Any) -> Any:
    """A schema without what only documents. A property may have any name: only keywords are dropped."""
    if isinstance(node, list):
        return [plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: plain(value) for key, value in node.items() if key not in DROPPED and key != "properties"}
    if "properties" in node:
        kept["properties"] = {name: plain(body) for name, body in node["properties"].items()}
    return kept


def published(path: Path) -> dict[str, Any]:
    """The schema of version v1 in a CRD's file, without `status`."""
    crd = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (version,) = [v for v in crd["spec"]["versions"] if v["name"] == "v1"]
    schema: dict[str, Any] = plain(version["schema"]["openAPIV3Schema"])
    schema["properties"].pop("status", None)
    return schema


def shared(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema, with a definition for each subtree that occurs more than once."""
    seen: Counter[str] = Counter()
    names: dict[str, str] = {}

    def count(node: Any, name: str) -> None:
        if isinstance(node, list):
            for item in node:
                count(item, name)
        if isinstance(node, dict):
            text = json.dumps(node, sort_keys=True)
            if "type" in node and len(text) > WORTH:
                seen[text] += 1
                names.setdefault(text, name)
                if seen[text] > 1:
                    return
            for key, value in node.items():
                if key == "properties":
                    for inner, body in value.items():
                        count(body, inner)
                else:
                    count(value, name)

    count(schema, "root")
    chosen: dict[str, str] = {}
    for text in (text for text, times in seen.items() if times > 1):
        name, number = names[text], 1
        while name in chosen.values():
            number += 1
            name = f"{names[text]}{number}"
        chosen[text] = name

    def replaced(node: Any, whole: bool = False) -> Any:
        if isinstance(node, list):
            return [replaced(item) for item in node]
        if not isinstance(node, dict):
            return node
        name = chosen.get(json.dumps(node, sort_keys=True))
        if name is not None and not whole:
            return {"$ref": f"#/$defs/{name}"}
        return {
            key: {n: replaced(body) for n, body in value.items()} if key == "properties" else replaced(value)
            for key, value in node.items()
        }

    definitions = {name: replaced(json.loads(text), whole=True) for text, name in chosen.items()}
    return {**replaced(schema, whole=True), "$defs": dict(sorted(definitions.items()))}


def expanded(schema: dict[str, Any]) -> Any:
    """The inverse of `shared`."""

    def put_back(node: Any) -> Any:
        if isinstance(node, list):
            return [put_back(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return put_back(schema["$defs"][node["$ref"].removeprefix("#/$defs/")])
        return {key: put_back(value) for key, value in node.items()}

    return put_back({key: value for key, value in schema.items() if key != "$defs"})


def text_of(schema: dict[str, Any]) -> str:
    """One definition a line: small files with readable differences."""
    head = {key: value for key, value in schema.items() if key != "$defs"}
    lines = [
        f"{json.dumps(k)}: {json.dumps(v, sort_keys=True, separators=(',', ':'))}" for k, v in sorted(head.items())
    ]
    definitions = [
        f"{json.dumps(k)}: {json.dumps(v, sort_keys=True, separators=(',', ':'))}" for k, v in schema["$defs"].items()
    ]
    return "{\n" + ",\n".join(lines) + ',\n"$defs": {\n' + ",\n".join(definitions) + "\n}\n}\n"


if __name__ == "__main__":
    for target, source in SOURCES.items():
        made = shared(published(Path(sys.argv[1]) / source))
        (Path(__file__).parent / target).write_text(text_of(made), encoding="utf-8")
