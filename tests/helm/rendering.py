"""Renders the chart with the real Helm engine, and finds things in what comes out."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "trimtab"
SCHEMAS = Path(__file__).parent / "schemas"
RELEASE, NAMESPACE = "demo", "ml"
VALUE_SETS: dict[str, dict[str, Any]] = {
    path.name.removesuffix("-values.yaml"): yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in sorted((CHART / "ci").glob("*-values.yaml"))
} | {"defaults": {}}
Object = dict[str, Any]


class UniqueLoader(yaml.SafeLoader):
    """YAML in which a key that is written twice is an error, as the API server treats it."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"twice: {twice}", node.start_mark)
        return super().construct_mapping(node, deep=deep)


@functools.cache
def chart() -> helm_python.Chart:
    return helm_python.Chart.load(str(CHART))


def texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Rendered text by template file, those that render to nothing left out."""
    rendered = chart().render(dict(values), name=RELEASE, namespace=NAMESPACE)
    return {Path(path).name: text for path, text in rendered.items() if text.strip()}


def objects(values: Mapping[str, Any]) -> list[Object]:
    """Every Kubernetes object of a rendering."""
    found = []
    for name, text in texts(values).items():
        if name.endswith(".yaml"):
            found += [document for document in yaml.load_all(text, UniqueLoader) if document]
    return found


def one(values: Mapping[str, Any], kind: str) -> Object:
    """The only object of a kind."""
    (found,) = [o for o in objects(values) if o["kind"] == kind]
    return found


def pod_templates(rendered: list[Object]) -> dict[str, Object]:
    """Pod templates by a name of what makes the pods."""
    found = {}
    for item in rendered:
        if item["kind"] == "Deployment":
            found["deployment"] = item["spec"]["template"]
        if item["kind"] == "RayService":
            cluster = item["spec"]["rayClusterConfig"]
            found["head"] = cluster["headGroupSpec"]["template"]
            for group in cluster["workerGroupSpecs"]:
                found[f"worker {group['groupName']}"] = group["template"]
    return found


def containers(template: Object) -> list[Object]:
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]


def overlaid(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values with others laid over them, as `helm -f a -f b` does."""
    merged = copy.deepcopy(dict(values))
    for key, value in changes.items():
        before = merged.get(key)
        merged[key] = overlaid(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return merged


def settings_document(rendered: list[Object]) -> Object:
    """trimtab's configuration as the pods get it, in either mode."""
    for item in rendered:
        if "trimtab.yaml" in item.get("data", {}):
            return dict(yaml.safe_load(item["data"]["trimtab.yaml"]))
    return dict(serve_config(rendered)["applications"][0]["args"])


def serve_config(rendered: list[Object]) -> Object:
    (service,) = [o for o in rendered if o["kind"] == "RayService"]
    return dict(yaml.safe_load(service["spec"]["serveConfigV2"]))


def strict(schema: Any) -> Any:
    """A CRD's schema in which objects have no properties but those listed, and int-or-string is what it says."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    out = {k: strict(v) for k, v in schema.items() if k != "properties"}
    if "properties" in schema:
        out["properties"] = {name: strict(body) for name, body in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            out.setdefault("additionalProperties", False)
    return out


def crd(kind: str) -> Any:
    """The strict schema of a custom resource that the chart uses."""
    return strict(json.loads((SCHEMAS / f"{kind.lower()}.json").read_text(encoding="utf-8")))


def walk(node: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every value below a node, with the path to it."""
    yield path, node
    items: Any = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from walk(value, (*path, key))
