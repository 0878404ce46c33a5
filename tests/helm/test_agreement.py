"""What schemas cannot see: that the objects of one rendering agree with each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helm.rendering import (
    NAMESPACE,
    RELEASE,
    VALUE_SETS,
    Object,
    containers,
    objects,
    one,
    overlaid,
    pod_templates,
    settings_document,
    texts,
    walk,
)

sets = pytest.mark.parametrize("values", VALUE_SETS.values(), ids=VALUE_SETS)
POOL = VALUE_SETS["gpu-pool-autoscaling"]
#: KubeRay puts these on pods; the chart's templates cannot have them.
KUBERAY_LABELS = {"head": {"ray.io/serve": "false"}, "worker": {"ray.io/serve": "true"}}


def labels_of(template_name: str, template: Object) -> dict[str, str]:
    return {**template["metadata"]["labels"], **KUBERAY_LABELS.get(template_name.split()[0], {})}


def selected(selector: dict[str, str], templates: dict[str, Object]) -> set[str]:
    return {name for name, t in templates.items() if selector.items() <= labels_of(name, t).items()}


@sets
def test_selectors_select_the_pods_they_mean(values: dict[str, Any]) -> None:
    rendered = objects(values)
    templates = pod_templates(rendered)
    workers = {name for name in templates if name != "head"}
    for item in rendered:
        spec = item.get("spec", {})
        match item["kind"]:
            case "Service" if item["metadata"]["name"].endswith("-admin"):
                assert selected(spec["selector"], templates) == {"head" if "head" in templates else "deployment"}
                assert spec["type"] == "ClusterIP"
            case "Service":
                assert selected(spec["selector"], templates) == workers
            case "Deployment":
                assert selected(spec["selector"]["matchLabels"], templates) == {"deployment"}
            case "PodDisruptionBudget":
                assert selected(spec["selector"]["matchLabels"], templates) == workers
            case "NetworkPolicy":
                assert selected(spec["podSelector"]["matchLabels"], templates) == set(templates)
            case "PodMonitor":
                assert selected(spec["selector"]["matchLabels"], templates) == set(templates)
    for name, template in templates.items():
        for spread in template["spec"].get("topologySpreadConstraints", []):
            assert selected(spread["labelSelector"]["matchLabels"], templates) == {name}


@sets
def test_every_object_is_named_and_labelled(values: dict[str, Any]) -> None:
    rendered = objects(values)
    names = [(o["kind"], o["metadata"]["name"]) for o in rendered]
    assert len(names) == len(set(names))
    for item in rendered:
        dashboard = "grafana_dashboard" in item["metadata"]["labels"]
        elsewhere = values.get("dashboards", {}).get("namespace") if dashboard else None
        assert item["metadata"]["namespace"] == (elsewhere or NAMESPACE)
        labels = item["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == RELEASE
        assert labels["app.kubernetes.io/name"] == "trimtab"
        for key in labels:
            assert len(key.rpartition("/")[2]) <= 63
            assert len(labels[key]) <= 63


def test_a_long_release_name_leaves_room_for_what_kuberay_appends() -> None:
    rendered = objects({**POOL, "fullnameOverride": "x" * 60})
    assert {len(o["metadata"]["name"]) for o in rendered if o["kind"] == "RayService"} == {41}


@sets
def test_ports_are_named_for_kubernetes_and_found_by_name(values: dict[str, Any]) -> None:
    rendered = objects(values)
    templates = pod_templates(rendered)
    for template in templates.values():
        for container in containers(template):
            ports = container.get("ports", [])
            assert all(0 < len(p["name"]) <= 15 for p in ports)
            assert len({p["name"] for p in ports}) == len(ports)
            assert len({p["containerPort"] for p in ports}) == len(ports)
            names = {p["name"] for p in ports}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                port = container.get(probe, {}).get("httpGet", {}).get("port")
                assert port is None or isinstance(port, int) or port in names
    named = {name: {p["name"] for p in t["spec"]["containers"][0]["ports"]} for name, t in templates.items()}
    for item in rendered:
        if item["kind"] == "Service":
            assert all(len(p["name"]) <= 15 for p in item["spec"]["ports"])
            wanted = {p["targetPort"] for p in item["spec"]["ports"]}
            admin = wanted == {"admin"} and "head" in named
            assert all(wanted <= names for name, names in named.items() if (name == "head") == admin)
        if item["kind"] == "PodMonitor":
            scraped = {e["port"] for e in item["spec"]["podMetricsEndpoints"]}
            assert all(scraped <= names for names in named.values())
        if item["kind"] == "Ingress":
            backend = item["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
            (service,) = [o for o in rendered if o["kind"] == "Service" and o["metadata"]["name"] == backend["name"]]
            assert backend["port"]["name"] in {p["name"] for p in service["spec"]["ports"]}


@sets
def test_declared_ports_are_those_of_the_configuration(values: dict[str, Any]) -> None:
    rendered = objects(values)
    document = settings_document(rendered)
    first = document["metrics"]["port"]
    for template in pod_templates(rendered).values():
        ports = {p["name"]: p["containerPort"] for p in template["spec"]["containers"][0]["ports"]}
        http = ports["http"] if "http" in ports else ports["serve"]
        assert ports.get("admin", 8002) == 8002
        assert (http, ports["grpc"]) == (document["server"]["http_port"], document["server"]["grpc_port"])
        own = sorted(port for name, port in ports.items() if name.startswith("trimtab-"))
        assert own == list(range(first, first + len(own)))
        assert ports.get("metrics", 0) == document["metrics"]["ray_port"]


@sets
def test_a_disruption_budget_has_exactly_one_of_the_two(values: dict[str, Any]) -> None:
    budgets = [o["spec"] for o in objects(values) if o["kind"] == "PodDisruptionBudget"]
    assert len(budgets) == (0 if values.get("podDisruptionBudget", {}).get("enabled") is False else 1)
    for spec in budgets:
        assert ("minAvailable" in spec) != ("maxUnavailable" in spec)


def test_a_disruption_budget_of_workers_is_one_that_kubernetes_can_compute() -> None:
    """A RayCluster has no scale subresource: for its pods only a whole minAvailable has a meaning."""
    unset = overlaid(POOL, {"podDisruptionBudget": {"minAvailable": None}})
    assert one(unset, "PodDisruptionBudget")["spec"]["minAvailable"] == 1
    assert one(POOL, "PodDisruptionBudget")["spec"]["minAvailable"] == 2


def test_a_disruption_budget_of_zero_is_zero() -> None:
    spec = one({"podDisruptionBudget": {"maxUnavailable": 0}}, "PodDisruptionBudget")["spec"]
    assert spec["maxUnavailable"] == 0


@sets
def test_pods_are_confined(values: dict[str, Any]) -> None:
    for template in pod_templates(objects(values)).values():
        spec = template["spec"]
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] is True
        assert pod["runAsUser"] >= 10000
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(template):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            if container["name"] == "models":  # an image of others, which needs nothing but `cp`
                continue
            env = {e["name"]: e.get("value") for e in container["env"]}
            assert env["HOME"] == "/tmp"
            mounts = {m["mountPath"]: m for m in container["volumeMounts"]}
            assert {"/tmp"} <= set(mounts) if container["name"] == "fetch" else {"/tmp", "/dev/shm"} <= set(mounts)


@sets
def test_only_the_autoscaler_gets_a_token(values: dict[str, Any]) -> None:
    rendered = objects(values)
    assert all(o["automountServiceAccountToken"] is False for o in rendered if o["kind"] == "ServiceAccount")
    scaled = values.get("rayservice", {}).get("autoscaling", {}).get("enabled", False)
    for name, template in pod_templates(rendered).items():
        assert template["spec"]["automountServiceAccountToken"] is (scaled and name == "head")


@sets
def test_volumes_and_mounts_agree(values: dict[str, Any]) -> None:
    rendered = objects(values)
    claims = {o["metadata"]["name"] for o in rendered if o["kind"] == "PersistentVolumeClaim"}
    given = {v.get("claim", {}).get("existingClaim") for v in (values.get("repository", {}), values.get("journal", {}))}
    for template in pod_templates(rendered).values():
        volumes = {v["name"]: v for v in template["spec"]["volumes"]}
        mounted = {m["name"] for c in containers(template) for m in c["volumeMounts"]}
        assert mounted == set(volumes)
        shm = volumes["shm"]["emptyDir"]
        assert shm["medium"] == "Memory"
        assert shm["sizeLimit"]
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims | given
    used = {
        v["persistentVolumeClaim"]["claimName"]
        for t in pod_templates(rendered).values()
        for v in t["spec"]["volumes"]
        if "persistentVolumeClaim" in v
    }
    assert claims <= used


@sets
def test_a_repository_from_object_storage_is_there_and_verified_before_anything_starts(values: dict[str, Any]) -> None:
    fetch = values.get("repository", {}).get("fetch", {})
    for template in pod_templates(objects(values)).values():
        found = [c for c in template["spec"].get("initContainers", []) if c["name"] == "fetch"]
        assert len(found) == bool(fetch)
        if not fetch:
            continue
        (container,) = found
        mounts = {m["name"]: m for m in container["volumeMounts"]}
        assert container["args"][:3] == ["fetch", fetch["url"], mounts["repository"]["mountPath"]]
        assert not mounts["repository"].get("readOnly")
        served = template["spec"]["containers"][0]
        (mount,) = [m for m in served["volumeMounts"] if m["name"] == "repository"]
        assert mount == {"name": "repository", "mountPath": "/models", "readOnly": True}
        # What may read the store is the fetching container's alone.
        assert "envFrom" not in served
        assert container.get("envFrom", []) == (
            [{"secretRef": {"name": fetch["secretName"]}}] if "secretName" in fetch else []
        )


def test_the_arguments_of_a_fetch_are_those_of_the_command(tmp_path: Path) -> None:
    """Run by the command itself, up to where it would read the source."""
    from typer.testing import CliRunner

    from server.cli import app
    from variants.errors import FetchFailed

    values = {
        "repository": {"fetch": {"url": "memory://nothing", "options": {"a b": 'quo"te'}, "sumsSha256": "0" * 64}}
    }
    (container,) = one(values, "Deployment")["spec"]["template"]["spec"]["initContainers"]
    args = [a.replace("/models", str(tmp_path)) for a in container["args"]]
    assert args[3:] == ['--options={"a b":"quo\\"te"}', f"--sums-sha256={'0' * 64}"]
    done = CliRunner().invoke(app, args)
    assert isinstance(done.exception, FetchFailed), done.output


@sets
def test_no_secret_is_in_what_is_rendered(values: dict[str, Any]) -> None:
    rendered = objects(values)
    assert [o for o in rendered if o["kind"] == "Secret"] == []
    for item in rendered:
        for path, value in walk(item):
            if path and path[-1] in ("redisPassword", "redisUsername"):
                assert set(value["valueFrom"]["secretKeyRef"]) == {"name", "key"}


def test_the_secrets_of_a_prometheus_server_lie_where_the_configuration_looks() -> None:
    rendered = objects(VALUE_SETS["secured"])
    prometheus = settings_document(rendered)["controller"]["prometheus"]
    template = pod_templates(rendered)["deployment"]
    (volume,) = [v for v in template["spec"]["volumes"] if v["name"] == "prometheus"]
    (mount,) = [m for m in template["spec"]["containers"][0]["volumeMounts"] if m["name"] == "prometheus"]
    files = {
        f"{mount['mountPath']}/{item['path']}": (source["secret"]["name"], item["key"])
        for source in volume["projected"]["sources"]
        for item in source["secret"]["items"]
    }
    assert files == {
        prometheus["bearer_token_file"]: ("prometheus-reader", "token"),
        prometheus["ca_file"]: ("prometheus-ca", "ca.crt"),
    }
    assert mount["readOnly"] is True


def test_callers_and_certificates_lie_where_the_configuration_looks() -> None:
    rendered = objects(VALUE_SETS["secured"])
    server = settings_document(rendered)["server"]
    (spec,) = [t["spec"] for t in pod_templates(rendered).values()]
    mounts = {m["name"]: m for m in spec["containers"][0]["volumeMounts"]}
    files = {
        f"{mounts[volume['name']]['mountPath']}/{item['path']}": (volume["secret"]["secretName"], item["key"])
        for volume in spec["volumes"]
        if "secret" in volume
        for item in volume["secret"]["items"]
    }
    assert files == {
        server["auth"]["tokens_file"]: ("trimtab-callers", "tokens.yaml"),
        str(Path(server["auth"]["tokens_file"]).with_name("gateway")): ("trimtab-callers", "gateway"),
        server["tls"]["certificate"]: ("trimtab-internal", "tls.crt"),
        server["tls"]["key"]: ("trimtab-internal", "tls.key"),
        server["tls"]["client_ca"]: ("trimtab-internal", "ca.crt"),
    }
    # A Secret that is mounted by subPath is not renewed in the pod.
    assert all(mounts[name]["readOnly"] is True and "subPath" not in mounts[name] for name in ("auth", "tls", "config"))
    assert "allow_unauthenticated" not in server


@sets
def test_tls_is_spoken_by_everyone_or_by_nobody(values: dict[str, Any]) -> None:
    rendered = objects(values)
    tls = "tls" in settings_document(rendered)["server"]
    assert tls == ("secretName" in values.get("tls", {}))
    for template in pod_templates(rendered).values():
        probes = [template["spec"]["containers"][0][p] for p in ("startupProbe", "livenessProbe", "readinessProbe")]
        asked = [p["httpGet"] for p in probes if p.get("httpGet", {}).get("path", "").startswith("/v2/")]
        assert {get["scheme"] for get in asked} <= {"HTTPS" if tls else "HTTP"}
    ports = [p for o in rendered if o["kind"] == "Service" for p in o["spec"]["ports"]]
    spoken = {p["name"]: p["appProtocol"] for p in ports}
    plain = {"http": "http", "grpc": "kubernetes.io/h2c", "admin": "http"}
    assert spoken == (dict.fromkeys(plain, "https") if tls else plain)


def egress_ports(values: dict[str, Any]) -> set[int]:
    rules = one(values, "NetworkPolicy")["spec"]["egress"]
    return {port["port"] for rule in rules for port in rule.get("ports", [])}


@pytest.mark.parametrize(
    ("url", "port"),
    [("http://p:9090", 9090), ("https://p.example", 443), ("http://p/prefix", 80), ("https://[::1]:9091/x", 9091)],
)
def test_egress_reaches_the_prometheus_server(url: str, port: int) -> None:
    assert egress_ports({"prometheus": {"url": url}}) == {53, port}


def test_egress_reaches_what_the_ray_cluster_needs() -> None:
    assert egress_ports(POOL) == {53, 443, 6443, 6379, 9090} | {80, 988}  # the last two from its own values


@pytest.mark.parametrize(
    ("fetch", "port"),
    [
        ({"url": "s3://b/m"}, 443),
        ({"url": "s3://b/m", "options": {"endpoint": "https://minio.data:9000"}}, 9000),
        ({"url": "s3://b/m", "options": {"endpoint": "http://minio.data"}}, 80),
    ],
)
def test_egress_reaches_the_store_of_the_repository(fetch: dict[str, Any], port: int) -> None:
    assert egress_ports({"repository": {"fetch": fetch}}) == {53, port}


def test_nobody_is_let_in_to_the_admin_port_unless_named() -> None:
    def who(values: dict[str, Any]) -> list[Any]:
        rules = one(values, "NetworkPolicy")["spec"]["ingress"]
        return [rule.get("from") for rule in rules if {"port": 8002, "protocol": "TCP"} in rule.get("ports", [])]

    assert who({}) == []
    assert who(VALUE_SETS["secured"]) == [VALUE_SETS["secured"]["networkPolicy"]["admins"]]


def changed_budgets(values: dict[str, Any]) -> dict[str, Any]:
    other = {
        "budgets": [{"name": "ram", "resource": "ram", "scope": "trimtab", "limit": "1GiB", "enter": 0.7, "exit": 0.5}],
        "models": {"wine": {"weight": 9, "floor": 0.2, "slo": {"latency_seconds": 1}}},
        "controller": {"cooldown_seconds": 99},
    }
    return overlaid(values, {"config": other})


@sets
def test_an_upgrade_that_only_changes_budgets_leaves_every_pod_alone(values: dict[str, Any]) -> None:
    """Compared as text, comments and all; what may differ is the configuration and the alerts that quote it."""
    before, after = texts(values), texts(changed_budgets(values))
    assert set(before) == set(after)
    differing = {name for name in before if before[name] != after[name]}
    assert {"configmap.yaml"} <= differing <= {"configmap.yaml", "prometheusrule.yaml"}


def test_what_hosts_are_built_from_reaches_them_without_a_second_cluster() -> None:
    before, after = (one(v, "RayService") for v in (POOL, overlaid(POOL, {"config": {"host": {"threads": 3}}})))
    assert before["spec"]["serveConfigV2"] != after["spec"]["serveConfigV2"]
    assert before["spec"]["rayClusterConfig"] == after["spec"]["rayClusterConfig"]


def test_the_pod_follows_the_configuration_when_asked_to() -> None:
    values = {"restartOnConfigChange": True}
    before, after = texts(values)["deployment.yaml"], texts(changed_budgets(values))["deployment.yaml"]
    assert "checksum/config" in before
    assert before != after
