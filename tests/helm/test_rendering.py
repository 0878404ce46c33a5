"""Every value set renders, and an API server would take the result."""

from __future__ import annotations

from typing import Any

import helm_python
import jsonschema
import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import latest_version

from tests.helm.rendering import CHART, NAMESPACE, VALUE_SETS, crd, objects, overlaid, texts

CUSTOM = ("RayService", "PodMonitor", "PrometheusRule", "HTTPRoute")
KUBERNETES = ("1.29", latest_version())
#: YAML 1.1 reads these as booleans, YAML 1.2 as text.
AMBIGUOUS = {"y", "n", "yes", "no", "on", "off"}
POOL = VALUE_SETS["gpu-pool-autoscaling"]
sets = pytest.mark.parametrize("values", VALUE_SETS.values(), ids=VALUE_SETS)


@sets
@pytest.mark.parametrize("version", KUBERNETES)
def test_lints_strictly(values: dict[str, Any], version: str) -> None:
    report = helm_python.lint(str(CHART), values, strict=True, namespace=NAMESPACE, kube_version=f"v{version}.0")
    assert report["errors"] == []
    assert [m for m in report["messages"] if m["severity"] > 1] == []


@sets
@pytest.mark.parametrize("version", KUBERNETES)
def test_built_in_objects_are_valid(values: dict[str, Any], version: str) -> None:
    rendered = [o for o in objects(values) if o["kind"] not in CUSTOM]
    assert len(rendered) >= 2
    for item in rendered:
        kubernetes_validate.validate(item, version, strict=True)


@sets
def test_custom_resources_are_valid(values: dict[str, Any]) -> None:
    for item in objects(values):
        if item["kind"] in CUSTOM:
            jsonschema.Draft202012Validator(crd(item["kind"])).validate(item)


def test_all_custom_resources_are_rendered_by_some_set() -> None:
    kinds = {o["kind"] for values in VALUE_SETS.values() for o in objects(values)}
    assert set(CUSTOM) <= kinds


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("RayService", {"spec": {"excludeHeadFromServeSvc": True}}),
        ("RayService", {"spec": {"rayClusterConfig": {"headGroupSpec": {"template": {"spec": {"containrs": []}}}}}}),
        ("RayService", {"spec": {"rayClusterConfig": {"autoscalerOptions": {"version": "v3"}}}}),
        ("PodMonitor", {"spec": {"podMetricsEndpoint": []}}),
        ("PrometheusRule", {"spec": {"groups": [{"name": "g", "rule": []}]}}),
        ("HTTPRoute", {"spec": {"parentRef": []}}),
    ],
)
def test_the_schemas_would_notice(kind: str, change: dict[str, Any]) -> None:
    """What the checks above rest on: the trimmed schemas refuse typos and wrong values deep inside."""
    found = [o for values in VALUE_SETS.values() for o in objects(values) if o["kind"] == kind]
    validator = jsonschema.Draft202012Validator(crd(kind))
    assert validator.is_valid(found[0])
    assert not validator.is_valid(overlaid(found[0], change))


@sets
def test_no_scalar_depends_on_the_yaml_version(values: dict[str, Any]) -> None:
    for name, text in texts(values).items():
        if not name.endswith(".yaml"):
            continue
        for token in yaml.scan(text):
            if isinstance(token, yaml.ScalarToken) and token.plain:
                assert token.value.lower() not in AMBIGUOUS, f"{name}:{token.start_mark.line + 1}"


@sets
def test_notes_say_what_an_operator_has_to_know(values: dict[str, Any]) -> None:
    notes = texts(values)["NOTES.txt"]
    if values.get("mode") == "rayservice":
        assert "No second cluster is built" in notes
    else:
        assert "rollout restart deployment/demo-trimtab" in notes
    assert ("Nobody is asked who they are" in notes) == ("secretName" not in values.get("auth", {}))
    assert ("https://demo-trimtab.ml.svc:8000" in notes) == ("tls" in values)
    assert ("-c fetch" in notes) == ("fetch" in values.get("repository", {}))
    assert ("The journal is in the pod" in notes) == ("journal" not in values)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"mode": "rayservice"}, "needs prometheus.url"),
        ({"config": {"replicas": 4}}, "metrics.ports is 4, but 5 processes"),
        ({"repository": {"profileOnStart": True}}, "set repository.readOnly to false"),
        ({"repository": {"fetch": {"url": "s3://b"}, "image": {"reference": "a:1"}}}, "not both"),
        ({"repository": {"image": {"reference": "a:1"}, "claim": {"create": True}}}, "neither claim.create nor"),
        (overlaid(POOL, {"repository": {"claim": {"create": True}}}), "leave repository.claim alone"),
        ({"networkPolicy": {"enabled": False}}, "set auth.allowUnauthenticated"),
        ({"tls": {"secretName": "a", "clientCaKey": "ca.crt"}}, "auth.secretName have to know"),
        ({"tls": {"clientCaKey": "ca.crt"}, "auth": {"secretName": "a"}}, "tls.secretName, which is not given"),
        ({"tls": {"secretName": "a"}, "probes": {"readiness": {"protocol": "grpc"}}}, "speaks no TLS"),
        ({"mode": "rayservice", "prometheus": {"url": "http://p"}, "rayservice": {"workerGroups": []}}, "at least one"),
        ({"mode": "rayservice", "prometheus": {"url": "http://p"}, "metrics": {"rayPort": 0}}, "needs metrics.rayPort"),
        (overlaid(POOL, {"podDisruptionBudget": {"minAvailable": "50%"}}), "only a whole minAvailable"),
        (overlaid(POOL, {"podDisruptionBudget": {"minAvailable": None, "maxUnavailable": 1}}), "only a whole"),
        (
            {
                "mode": "rayservice",
                "prometheus": {"url": "http://p"},
                "rayservice": {"workerGroups": [{"name": "a", "minReplicas": 3, "maxReplicas": 1}]},
            },
            "minReplicas 3 is above maxReplicas 1",
        ),
        (
            {
                "mode": "rayservice",
                "prometheus": {"url": "http://p"},
                "rayservice": {"workerGroups": [{"name": "a", "minReplicas": 1, "maxReplicas": 1}] * 2},
            },
            'two groups are called "a"',
        ),
        (
            {
                "mode": "rayservice",
                "prometheus": {"url": "http://p"},
                "rayservice": {"gcsFaultTolerance": {"enabled": True}},
            },
            "needs redisAddress",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(values: dict[str, Any], why: str) -> None:
    with pytest.raises(helm_python.HelmError, match=why):
        texts(values)
