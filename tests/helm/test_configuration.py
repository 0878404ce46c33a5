"""What the pods are given is what trimtab and Ray Serve take."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.node import LABEL
from deployments.runtime_env import PROXY_SECRET, serve_environment
from server.admin.reload import at_start
from server.proxy import BINARY, proxy_environment
from server.settings import Settings, load_settings
from tests.helm.rendering import (
    NAMESPACE,
    ROOT,
    VALUE_SETS,
    objects,
    one,
    overlaid,
    pod_templates,
    serve_config,
    settings_document,
)

sets = pytest.mark.parametrize("values", VALUE_SETS.values(), ids=VALUE_SETS)
POOL = VALUE_SETS["gpu-pool-autoscaling"]


@sets
def test_the_configuration_is_valid_and_says_what_the_values_say(values: dict[str, Any], tmp_path: Path) -> None:
    document = settings_document(objects(values))
    file = tmp_path / "trimtab.yaml"
    file.write_text(yaml.safe_dump(document))
    settings = load_settings(file)
    assert settings.server.host == "0.0.0.0"
    assert settings.repository == "/models"
    assert settings.controller.journal == "/var/lib/trimtab/journal.jsonl"
    given = values.get("config", {})
    for key in ("replicas", "budgets", "models", "host"):
        if key in given:
            assert document[key] == given[key]
    for key, value in given.get("controller", {}).items():
        assert document["controller"][key] == value


def test_ray_processes_are_deployed_with_what_does_not_change_at_run_time(tmp_path: Path) -> None:
    """With the file it is what an embedded server has."""
    batched = overlaid(POOL, {"config": {"models": {"minilm": {"batching": {"queue": 7}}}}})
    file = tmp_path / "trimtab.yaml"
    file.write_text(yaml.safe_dump(settings_document(objects(batched))))
    whole = load_settings(file)
    args = serve_config(objects(batched))["applications"][0]["args"]
    assert args["config_path"] == "/etc/trimtab/trimtab.yaml"
    deployed = Settings.model_validate({**args, "config_path": str(file)})
    assert deployed.budgets == ()
    assert whole.host_config().batching_of("minilm").queue == 7
    assert at_start(deployed) == whole
    mounts = {
        name: [m["mountPath"] for m in t["spec"]["containers"][0]["volumeMounts"] if m["name"] == "config"]
        for name, t in pod_templates(objects(POOL)).items()
    }
    assert mounts == {"head": ["/etc/trimtab"], "worker l4": [], "worker cpu": []}


@sets
def test_paths_in_serve_arguments_are_absolute(values: dict[str, Any]) -> None:
    """Serve hands arguments to `build` as they are; only a file's relative paths are made absolute."""
    settings = Settings.model_validate(settings_document(objects(values)))
    assert Path(settings.repository).is_absolute()
    assert Path(settings.controller.journal).is_absolute()


def test_the_controller_asks_for_the_series_that_the_pod_monitor_labels() -> None:
    monitor = one(POOL, "PodMonitor")["metadata"]
    prometheus = settings_document(objects(POOL))["controller"]["prometheus"]
    assert prometheus["selector"] == f'job="{monitor["namespace"]}/{monitor["name"]}"'
    without = settings_document(objects(overlaid(POOL, {"podMonitor": {"enabled": False}})))
    assert without["controller"]["prometheus"]["selector"] == f'namespace="{NAMESPACE}"'


def test_ray_serve_takes_the_serve_config() -> None:
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(serve_config(objects(POOL)))
    (application,) = schema.applications
    assert schema.http_options.port == 8000
    assert schema.grpc_options.port == 8001
    assert application.route_prefix == "/"
    assert application.deployments[0].num_replicas == POOL["config"]["replicas"]


def test_the_application_can_be_built_from_the_serve_config() -> None:
    from deployments.actuator import from_user_config
    from server.ingress import APPLICATION, CONTROL, HOST

    config = serve_config(objects(POOL))
    (application,) = config["applications"]
    module, _, name = application["import_path"].partition(":")
    built = getattr(importlib.import_module(module), name)(application["args"])
    assert application["name"] == APPLICATION
    assert [d["name"] for d in application["deployments"]] == [HOST, CONTROL]
    assert built._bound_deployment.name == HOST
    assert built._bound_deployment.ray_actor_options["num_gpus"] == 1
    for function in config["grpc_options"]["grpc_servicer_functions"]:
        module, _, name = function.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))
    # Without a user_config Serve never calls reconfigure, and a host loads nothing before that.
    assignment = from_user_config(application["deployments"][0]["user_config"])
    assert (assignment.generation, assignment.variants) == (1, {})


@pytest.mark.parametrize("name", ["gpu-pool-autoscaling", "secured-pool"])
def test_ray_pods_have_the_environment_of_an_embedded_cluster(name: str, tmp_path: Path) -> None:
    """All of it, from the same settings: TLS and the limits on clients that HAProxy keeps, too."""
    rendered = objects(VALUE_SETS[name])
    server = Settings.model_validate(settings_document(rendered)).server
    expected = serve_environment(Path("/tmp/trimtab"), metrics_port=9101, stats_port=8404)
    expected |= proxy_environment(server, tmp_path)
    expected["RAY_SERVE_GRPC_MAX_MESSAGE_SIZE"] = str(server.max_body_bytes)
    expected[BINARY] = "/opt/trimtab/bin/trimtab-haproxy"  # in place of the launcher that was written to tmp_path
    given = VALUE_SETS[name].get("tls", {}).get("proxySecret")
    secret = {"secretKeyRef": {"name": given["secretName"], "key": "proxy-secret"}} if given else None
    del expected[PROXY_SECRET]  # drawn at each start where one process starts all; here all pods know one
    threads = {"head": "1", "worker l4": "4", "worker cpu": "2", "worker large": "2", "worker small": "2"}
    for pod, template in pod_templates(rendered).items():
        container = template["spec"]["containers"][0]
        env = {e["name"]: e for e in container["env"] if e["name"].startswith(("RAY_", "TRIMTAB_"))}
        expected["RAY_SERVE_HAPROXY_NBTHREAD"] = threads[pod]  # by the pod's CPUs, as there by the machine's
        assert env.pop(PROXY_SECRET, {}).get("valueFrom") == secret
        assert {variable: e["value"] for variable, e in env.items()} == expected
        taken = {p["containerPort"] for p in container["ports"]}
        assert not taken & {9101, 8404, 52365}


def test_the_proxy_of_a_pod_is_the_program_that_the_image_installs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    binary = Path(environment_of(POOL)[BINARY])
    assert project["scripts"][binary.name] == "server.haproxy:main"
    assert f"ENV PATH={binary.parent}:" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


def environment_of(values: dict[str, Any]) -> dict[str, str]:
    """The variables of the head's container that are written down."""
    container = pod_templates(objects(values))["head"]["spec"]["containers"][0]
    return {e["name"]: e["value"] for e in container["env"] if "value" in e}


def test_limits_on_clients_are_said_once() -> None:
    changed = overlaid(
        POOL,
        {"limits": {"headerBytes": 32768, "headSeconds": 3}, "config": {"server": {"limits": {"tensors": 7}}}},
    )
    limits = settings_document(objects(changed))["server"]["limits"]
    proxys = {"header_bytes": 32768, "head_seconds": 3, "streams": 100, "connections": 4096, "requests": 1024}
    assert limits == {**proxys, "tensors": 7}
    assert environment_of(changed)["TRIMTAB_HEAD_SECONDS"] == "3"
    # What a host keeps is Serve's to apply: no pod is made anew for it.
    tensors = overlaid(POOL, {"config": {"server": {"limits": {"tensors": 9}}}})
    assert pod_templates(objects(tensors)) == pod_templates(objects(POOL))


def test_host_groups_are_labels_of_ray_nodes_with_budgets_of_their_own() -> None:
    rendered = objects(VALUE_SETS["secured-pool"])
    (service,) = [o for o in rendered if o["kind"] == "RayService"]
    groups = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert {g["groupName"]: g.get("labels") for g in groups} == {"large": None, "small": {LABEL: "small"}}
    config = Settings.model_validate(settings_document(rendered)).budgets_config()
    assert [b.name for b in config.of("small").budgets] == ["node", "small-ram"]
    assert [b.name for b in config.of("default").budgets] == ["node"]


def test_the_size_limit_is_one_number_for_both_transports() -> None:
    rendered = objects(overlaid(POOL, {"maxBodyBytes": 268435456}))
    assert settings_document(rendered)["server"]["max_body_bytes"] == 268435456
    for template in pod_templates(rendered).values():
        env = {e["name"]: e["value"] for e in template["spec"]["containers"][0]["env"]}
        assert env["RAY_SERVE_GRPC_MAX_MESSAGE_SIZE"] == "268435456"


def test_the_ray_cluster_is_as_the_values_say() -> None:
    spec = one(POOL, "RayService")["spec"]
    cluster = spec["rayClusterConfig"]
    assert spec["upgradeStrategy"] == {"type": "None"}
    assert spec["excludeHeadPodFromServeSvc"] is True
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["gcsFaultToleranceOptions"]["redisAddress"] == "redis.data:6379"
    groups = {g["groupName"]: g for g in cluster["workerGroupSpecs"]}
    assert (groups["l4"]["minReplicas"], groups["l4"]["replicas"], groups["l4"]["maxReplicas"]) == (0, 3, 8)
    assert groups["cpu"]["replicas"] == 0
    gpu = groups["l4"]["template"]["spec"]
    assert gpu["runtimeClassName"] == "nvidia"
    assert gpu["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert gpu["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert groups["cpu"]["template"]["spec"]["containers"][0]["image"].endswith("trimtab:0.1.0")
    for template in pod_templates([one(POOL, "RayService")]).values():
        assert template["spec"]["restartPolicy"] == "Never"
    starts = [cluster["headGroupSpec"]["rayStartParams"], *(g["rayStartParams"] for g in groups.values())]
    assert all(isinstance(value, str) for params in starts for value in params.values())


def test_the_controller_has_its_place_on_the_head_and_only_there() -> None:
    """By a custom resource, as Ray itself reads it out of a RayCluster."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _get_custom_resources

    cluster = one(POOL, "RayService")["spec"]["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    offered = [_get_custom_resources(g.get("resources", {}), g["rayStartParams"], "g") for g in groups]
    (control,) = [d for d in serve_config(objects(POOL))["applications"][0]["deployments"] if d["name"] == "control"]
    wanted = control["ray_actor_options"]
    assert wanted["num_cpus"] == 0
    assert [name in offered[0] for name in wanted["resources"]] == [True]
    assert offered[1:] == [{}] * len(offered[1:])
    # Its journal is on a claim that one pod mounts.
    claims = {
        name: [v["persistentVolumeClaim"]["claimName"] for v in t["spec"]["volumes"] if "persistentVolumeClaim" in v]
        for name, t in pod_templates(objects(POOL)).items()
    }
    assert claims == {"head": ["demo-trimtab-journal"], "worker l4": [], "worker cpu": []}


def test_what_the_chart_sets_of_a_node_cannot_be_overruled_by_accident() -> None:
    changed = overlaid(POOL, {"rayservice": {"head": {"rayStartParams": {"num-cpus": "8", "log-color": "false"}}}})
    params = one(changed, "RayService")["spec"]["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]
    assert (params["num-cpus"], params["log-color"]) == ("0", "false")


def test_gpu_readings_of_the_dcgm_exporter_are_those_of_our_pods() -> None:
    prometheus = settings_document(objects(POOL))["controller"]["prometheus"]
    assert prometheus["gpu_selector"] == f'exported_namespace="{NAMESPACE}",exported_pod=~"demo-trimtab-.+"'
    honoured = overlaid(POOL, {"prometheus": {"dcgm": {"podLabel": "pod", "namespaceLabel": "namespace"}}})
    prometheus = settings_document(objects(honoured))["controller"]["prometheus"]
    assert prometheus["gpu_selector"] == f'namespace="{NAMESPACE}",pod=~"demo-trimtab-.+"'
    without = overlaid(POOL, {"prometheus": {"dcgm": {"enabled": False}}})
    assert "gpu_selector" not in settings_document(objects(without))["controller"]["prometheus"]


def test_the_rayversion_is_the_one_that_is_installed() -> None:
    import ray

    assert one(POOL, "RayService")["spec"]["rayClusterConfig"]["rayVersion"] == ray.__version__


def test_probes_ask_paths_that_exist() -> None:
    """Ray's own health paths, and the protocol's; KubeRay's default probes need wget, which the image has not."""
    from ray.dashboard.http_server_agent import PUBLIC_EXACT_PATHS

    for values in VALUE_SETS.values():
        for template in pod_templates(objects(values)).values():
            container = template["spec"]["containers"][0]
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                get = container[probe].get("httpGet")
                if get is None:
                    assert container[probe]["grpc"] == {"port": 8001}
                elif get["port"] == 52365:
                    assert get["path"] in PUBLIC_EXACT_PATHS
                else:
                    assert get["path"] in ("/v2/health/live", "/v2/health/ready")
