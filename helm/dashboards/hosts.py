"""*Hosts*: the machines below the models: memory, processors, GPUs, and the health of Ray and Serve."""

from __future__ import annotations

from budgets import exposition as names
from helm.dashboards.parts import (
    CONTROL,
    GREEN,
    GREY,
    HOST,
    MODEL,
    NAMESPACE,
    ORANGE,
    RED,
    YELLOW,
    Json,
    Panel,
    Query,
    dashboard,
    lines,
    states,
    styled,
    to_model,
)

MIB = 2**20
#: dcgm-exporter's series belong to its own pod; those of the pods that use a GPU are `exported_…`.
DCGM = 'exported_namespace=~"$namespace"'
GPU = "{{Hostname}} gpu {{gpu}} {{exported_pod}}"
#: Ray's numbers, in words (descriptions of ray_serve_application_status and ray_serve_deployment_status).
APPLICATION = {
    0: ("unknown", GREY),
    1: ("deploy failed", RED),
    2: ("unhealthy", RED),
    3: ("not started", YELLOW),
    4: ("deleting", ORANGE),
    5: ("deploying", YELLOW),
    6: ("running", GREEN),
}
DEPLOYMENT = {
    0: ("unknown", GREY),
    1: ("deploy failed", RED),
    2: ("unhealthy", RED),
    3: ("updating", YELLOW),
    4: ("upscaling", YELLOW),
    5: ("downscaling", YELLOW),
    6: ("healthy", GREEN),
}
PROXY = {
    1: ("starting", YELLOW),
    2: ("healthy", GREEN),
    3: ("unhealthy", RED),
    4: ("draining", ORANGE),
    5: ("drained", GREY),
}
SERVE = f'{NAMESPACE}, application="trimtab"'


def _memory() -> list[Panel]:
    share = f"sum by (model) ({names.RESIDENT}{{{MODEL}}})"
    return [
        lines(
            "RAM",
            "Memory in use on each host's node, or in its cgroup where that has a limit, and that limit.",
            Query(f"max by (instance) ({names.NODE_MEMORY_USED}{{{HOST}}})", "{{instance}}"),
            Query(f"max by (instance) ({names.NODE_MEMORY_LIMIT}{{{HOST}}})", "{{instance}} limit"),
            unit="bytes",
            overrides=(styled("limit$", dash=True, color=RED),),
        ),
        lines(
            "trimtab's processes",
            "Proportional set size by role: model hosts, the controller, and the Ray runtime around them.",
            Query(f"sum by (role) ({names.PROCESS_MEMORY}{{{CONTROL}}})", "{{role}}"),
            unit="bytes",
            stack=True,
        ),
        lines(
            "Neighbours",
            "Memory of the processes outside trimtab that count against a budget.",
            Query(f"max by (neighbour) ({names.NEIGHBOUR_MEMORY}{{{NAMESPACE}}})", "{{neighbour}}"),
            unit="bytes",
            stack=True,
        ),
        lines(
            "Resident bytes by model",
            "What loaded variants hold, summed over the chosen hosts.",
            Query(share, "{{model}}"),
            unit="bytes",
            stack=True,
            links=to_model(),
        ),
        lines(
            "Share of the models' memory",
            "Each model's part of what all of them hold.",
            Query(f"{share} / on () group_left () sum({names.RESIDENT}{{{MODEL}}})", "{{model}}"),
            unit="percentunit",
            stack=True,
            defaults={"max": 1},
            links=to_model(),
        ),
        lines(
            "Share of the engines' time",
            "Each model's part of the time spent inside engine calls.",
            Query(
                f"sum by (model) (rate({names.ENGINE_SECONDS}{{{MODEL}}}[$__rate_interval]))"
                f" / on () group_left () sum(rate({names.ENGINE_SECONDS}{{{MODEL}}}[$__rate_interval]))",
                "{{model}}",
            ),
            unit="percentunit",
            stack=True,
            defaults={"max": 1},
            links=to_model(),
        ),
    ]


def _processors() -> list[Panel]:
    return [
        lines(
            "CPU",
            "Fraction of all cores of the node in use between two scrapes.",
            Query(f"max by (instance) ({names.NODE_CPU}{{{HOST}}})", "{{instance}}"),
            unit="percentunit",
            defaults={"max": 1},
            width=12,
        ),
        lines(
            "Engine calls at once",
            "Seconds inside engine calls per second: how many ran at once on average.",
            Query(f"sum by (instance) (rate({names.ENGINE_SECONDS}{{{HOST}}}[$__rate_interval]))", "{{instance}}"),
            width=12,
        ),
    ]


def _gpus() -> list[Panel]:
    return [
        lines(
            "GPU memory",
            "Memory in use on each GPU as the hosts read it (NVML), and what there is.",
            Query(f"max by (instance, gpu) ({names.GPU_MEMORY_USED}{{{HOST}}})", "{{instance}} gpu {{gpu}}"),
            Query(f"max by (instance, gpu) ({names.GPU_MEMORY_LIMIT}{{{HOST}}})", "{{instance}} gpu {{gpu}} limit"),
            unit="bytes",
            overrides=(styled("limit$", dash=True, color=RED),),
        ),
        lines(
            "GPU memory of each host",
            "GPU memory of each model host's process (NVML).",
            Query(f"sum by (instance, gpu) ({names.PROCESS_GPU_MEMORY}{{{HOST}}})", "{{instance}} gpu {{gpu}}"),
            unit="bytes",
            stack=True,
        ),
        lines(
            "GPU utilisation",
            "Fraction of time in which a kernel ran, as the hosts read it (NVML).",
            Query(f"max by (instance, gpu) ({names.GPU_UTILIZATION}{{{HOST}}})", "{{instance}} gpu {{gpu}}"),
            unit="percentunit",
            defaults={"max": 1},
        ),
        lines(
            "GPU memory by pod (DCGM)",
            "Framebuffer in use by the pods of the namespace, from dcgm-exporter; other users of the GPU are seen here.",
            Query(f"DCGM_FI_DEV_FB_USED{{{DCGM}}} * {MIB}", GPU),
            unit="bytes",
            stack=True,
        ),
        lines(
            "GPU utilisation (DCGM)",
            "Fraction of time in which a kernel ran, from dcgm-exporter.",
            Query(f"DCGM_FI_DEV_GPU_UTIL{{{DCGM}}} / 100", GPU),
            unit="percentunit",
            defaults={"max": 1},
        ),
        lines(
            "GPU temperature and power (DCGM)",
            "Degrees Celsius and watts; a hot GPU lowers its clock, and latencies rise.",
            Query(f"DCGM_FI_DEV_GPU_TEMP{{{DCGM}}}", f"{GPU} temperature"),
            Query(f"DCGM_FI_DEV_POWER_USAGE{{{DCGM}}}", f"{GPU} power"),
            unit="celsius",
            overrides=(styled("power$", unit="watt"),),
        ),
    ]


def _serve() -> list[Panel]:
    return [
        states(
            "Application",
            "Ray Serve's state of the application.",
            Query(f"max by (application) (ray_serve_application_status{{{SERVE}}})", "{{application}}"),
            APPLICATION,
            height=6,
        ),
        states(
            "Deployments",
            "Ray Serve's state of the hosts and of the controller. Updating for a moment after each plan is normal.",
            Query(f"max by (deployment) (ray_serve_deployment_status{{{SERVE}}})", "{{deployment}}"),
            DEPLOYMENT,
            height=6,
        ),
        states(
            "Proxies",
            "State of the HTTP and gRPC front end of each node.",
            Query(f"max by (node_ip_address) (ray_serve_proxy_status{{{NAMESPACE}}})", "{{node_ip_address}}"),
            PROXY,
            height=6,
        ),
        lines(
            "Healthy replicas",
            "Replicas that pass their health check, and how many there should be.",
            Query(f"sum by (deployment) (ray_serve_deployment_replica_healthy{{{SERVE}}})", "{{deployment}}"),
            Query(f"max by (deployment) (ray_serve_autoscaling_target_replicas{{{SERVE}}})", "{{deployment}} wanted"),
            overrides=(styled("wanted$", dash=True, color=GREY),),
        ),
        lines(
            "Ray's nodes: memory",
            "Memory in use and in total, as Ray's agent on each node sees it.",
            Query(f"max by (ip) (ray_node_mem_used{{{NAMESPACE}}})", "{{ip}}"),
            Query(f"max by (ip) (ray_node_mem_total{{{NAMESPACE}}})", "{{ip}} total"),
            unit="bytes",
            overrides=(styled("total$", dash=True, color=GREY),),
        ),
        lines(
            "Ray's nodes: CPU",
            "Processor time in use on each node.",
            Query(f"max by (ip) (ray_node_cpu_utilization{{{NAMESPACE}}}) / 100", "{{ip}}"),
            unit="percentunit",
            defaults={"max": 1},
        ),
    ]


def made() -> Json:
    """The dashboard."""
    return dashboard(
        "trimtab-hosts",
        "trimtab / Hosts",
        "Memory, processors and GPUs below the models, who uses them, and the health of Ray and Serve.",
        [("Memory", _memory()), ("Processors", _processors()), ("GPUs", _gpus()), ("Ray and Serve", _serve())],
    )
