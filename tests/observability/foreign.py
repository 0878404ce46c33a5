"""Series that dashboards and alerts use and trimtab does not expose itself, with the labels they use of them.

Ray 2.60's were read from a running cluster (and are there in the test that runs one); DCGM's are those of `dcgm.prom`,
as Prometheus stores them when it scrapes dcgm-exporter with the operator's defaults.
"""

from __future__ import annotations

_GPU = {"gpu", "Hostname", "exported_namespace", "exported_pod"}

FOREIGN: dict[str, set[str]] = {
    "ray_serve_application_status": {"application"},
    "ray_serve_deployment_status": {"application", "deployment"},
    "ray_serve_deployment_replica_healthy": {"application", "deployment"},
    "ray_serve_autoscaling_target_replicas": {"application", "deployment"},
    "ray_serve_proxy_status": {"node_ip_address"},
    "ray_node_mem_used": {"ip"},
    "ray_node_mem_total": {"ip"},
    "ray_node_cpu_utilization": {"ip"},
    "DCGM_FI_DEV_FB_USED": _GPU,
    "DCGM_FI_DEV_GPU_UTIL": _GPU,
    "DCGM_FI_DEV_GPU_TEMP": _GPU,
    "DCGM_FI_DEV_POWER_USAGE": _GPU,
}
