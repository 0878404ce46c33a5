"""The values schema: complete, and nothing it does not know gets in."""

from __future__ import annotations

import copy
import importlib.util
import re
from collections.abc import Iterator
from typing import Any

import helm_python
import pytest
import yaml

from tests.helm.rendering import CHART, ROOT, VALUE_SETS, chart, overlaid, walk

#: Below these a mapping's keys are the user's own.
FREE = {
    "labels", "annotations", "commonLabels", "podLabels", "podAnnotations", "alertLabels", "nodeSelector", "matchLabels",
    "rayStartParams", "models", "affinity", "global", "options",
}  # fmt: skip
Path = tuple[str | int, ...]


def set_at(values: dict[str, Any], path: Path, key: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(values)
    node: Any = changed
    for step in path:
        node = node[step]
    node[key] = value
    return changed


def closed_mappings() -> Iterator[tuple[str, dict[str, Any], Path]]:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    for name, values in {"values.yaml": defaults, **VALUE_SETS}.items():
        for path, node in walk(values):
            if isinstance(node, dict) and not FREE & set(path[-1:]):
                yield name, values, path


CLOSED = list(closed_mappings())


@pytest.mark.parametrize(
    ("values", "path"), [c[1:] for c in CLOSED], ids=[f"{c[0]}:{'.'.join(map(str, c[2]))}" for c in CLOSED]
)
def test_an_unknown_key_is_refused_everywhere(values: dict[str, Any], path: Path) -> None:
    chart().validate_schema(values)
    with pytest.raises(helm_python.HelmError, match="(?i)typo"):
        chart().validate_schema(set_at(values, path, "typo", {"a": "b"}))


@pytest.mark.parametrize(
    "values",
    [
        {"mode": "statefulset"},
        {"image": {"pullPolicy": "Sometimes"}},
        {"image": {"digest": "sha256:short"}},
        {"service": {"type": "Cluster"}},
        {"config": {"budgets": [{"name": "ram", "resource": "memory"}]}},
        {"config": {"budgets": [{"name": "ram", "resource": "ram", "scope": "pod"}]}},
        {"config": {"budgets": [{"name": "ram", "resource": "ram", "limit": "3 gigs"}]}},
        {"config": {"models": {"minilm": {"wieght": 3}}}},
        {"config": {"host": {"device": "gpu"}}},
        {"config": {"replicas": 0}},
        {"config": {"repository": "/elsewhere"}},
        {"config": {"server": {"http_port": 9000}}},
        {"config": {"server": {"admin_port": 9000}}},
        {"config": {"server": {"allow_unauthenticated": True}}},
        {"config": {"server": {"auth": {"tokens_file": "/t"}}}},
        {"config": {"config_path": "/t"}},
        {"config": {"server": {"limits": {"head_seconds": 5}}}},
        {"limits": {"headSeconds": 0}},
        {"limits": {"headbytes": 8192}},
        {"tls": {"proxySecret": "text"}},
        {"rayservice": {"workerGroups": [{"name": "a", "minReplicas": 0, "maxReplicas": 1, "hostGroup": "two words"}]}},
        {"repository": {"fetch": {"url": "bucket/models"}}},
        {"repository": {"fetch": {"sumsSha256": "abc"}}},
        {"repository": {"image": {"pullPolicy": "Sometimes"}}},
        {"dashboards": {"labels": {"grafana_dashboard": 1}}},
        {"config": {"controller": {"journal": "/tmp/j"}}},
        {"config": {"metrics": {"port": 1}}},
        {"podDisruptionBudget": {"minAvailable": 1, "maxUnavailable": 1}},
        {"podDisruptionBudget": {"minAvailable": "half"}},
        {"tolerations": [{"operator": "Exist"}]},
        {"tolerations": [{"effect": "NoSchedul"}]},
        {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "Never"}]},
        {"resources": {"limits": {"memroy": "1Gi"}}},
        {"resources": {"limits": {"memory": "1GB"}}},
        {"probes": {"readiness": {"protocol": "tcp"}}},
        {"repository": {"path": "models"}},
        {"repository": {"claim": {"accessModes": ["ReadOnly"]}}},
        {"ingress": {"enabled": True}},
        {"httpRoute": {"enabled": True}},
        {"prometheus": {"url": "prometheus:9090"}},
        {"prometheusRule": {"sloTarget": 99}},
        {"podMonitor": {"interval": "5 seconds"}},
        {"rayservice": {"upgradeStrategy": "Rolling"}},
        {"rayservice": {"authMode": "none"}},
        {"rayservice": {"autoscaling": {"upscalingMode": "Fast"}}},
        {"rayservice": {"rayVersion": "2.60"}},
        {"rayservice": {"workerGroups": [{"name": "GPU", "minReplicas": 0, "maxReplicas": 1}]}},
        {"rayservice": {"workerGroups": [{"name": "gpu", "maxReplicas": 1}]}},
        {"metrics": {"port": "9464"}},
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(helm_python.HelmError):
        chart().validate_schema(values)


@pytest.mark.parametrize("size", [1024, "3GiB", "500 MB", "0.5GiB", "1kib"])
def test_sizes_are_accepted_as_trimtab_accepts_them(size: int | str) -> None:
    chart().validate_schema({"config": {"budgets": [{"name": "ram", "resource": "ram", "limit": size}]}})


def test_every_value_has_a_default_and_every_default_a_schema() -> None:
    """A value that values.yaml does not show is one that nobody finds."""
    schema = chart().schema
    assert schema is not None
    defaults = chart().values

    def compare(described: dict[str, Any], given: Any, path: str) -> None:
        if "$ref" in described:
            described = schema["$defs"][described["$ref"].removeprefix("#/$defs/")]
        if described.get("type") != "object" or "properties" not in described or not isinstance(given, dict):
            return
        names = set(described["properties"])
        assert set(given) <= names, path
        whole = path.count(".") < 2 and not path.endswith(("ecurityContext", "resources", "config", "affinity"))
        missing = names - set(given) - {"global", "initialDelaySeconds", "successThreshold"}
        assert not (whole and missing), f"{path}: {missing}"
        for name in given:
            if path != "" or name != "config":
                compare(described["properties"][name], given[name], f"{path}.{name}")

    compare(schema, defaults, "")


def test_the_schema_of_the_configuration_is_that_of_the_settings() -> None:
    """To repair: python helm/config_schema.py"""
    spec = importlib.util.spec_from_file_location("config_schema", ROOT / "helm" / "config_schema.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.SCHEMA.read_text(encoding="utf-8")
    assert text == module.updated(text), "run: python helm/config_schema.py"


def test_value_sets_are_those_that_are_promised() -> None:
    assert set(VALUE_SETS) == {
        "cpu-single-node", "one-gpu", "gpu-pool-autoscaling", "no-monitoring", "secured", "secured-pool",
        "defaults",
    }  # fmt: skip
    assert overlaid({"a": {"b": 1}}, {"a": {"c": 2}}) == {"a": {"b": 1, "c": 2}}


def test_the_readme_lists_every_value() -> None:
    listed = set(re.findall(r"`([A-Za-z.]+)`", (CHART / "README.md").read_text(encoding="utf-8")))
    schema = chart().schema
    assert schema is not None
    for name, body in schema["properties"].items():
        closed = "properties" in body and name not in ("config", "podSecurityContext", "securityContext")
        names = [f"{name}.{inner}" for inner in body["properties"]] if closed else [name]
        if name != "global":
            assert set(names) <= listed, name
