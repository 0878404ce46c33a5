"""Environment variables that must be set before the processes that read them start."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from variants.process import ALLOCATOR

#: For each model host.
HOST_ENVIRONMENT: dict[str, str] = {**ALLOCATOR, "TOKENIZERS_PARALLELISM": "false"}

#: What HAProxy's launcher (`server/haproxy.py`) and the hosts share: only HAProxy can tell a host whose client certificate
#: it saw.
PROXY_SECRET = "TRIMTAB_PROXY_SECRET"  # nosec B105

#: Names the folder of an embedded cluster's run, which all its processes can reach and which goes with it.
RUN_FOLDER = "TRIMTAB_RUN_FOLDER"


def host_runtime_env() -> dict[str, Any]:
    """Ray's runtime environment for a model host. An embedded cluster's processes all have `HOST_ENVIRONMENT` from its start, and
    without a runtime environment Ray needs nobody to make one."""
    return {} if RUN_FOLDER in os.environ else {"env_vars": HOST_ENVIRONMENT}


def serve_environment(run_folder: Path, *, metrics_port: int, stats_port: int) -> dict[str, str]:
    """For every Ray and Serve process of an embedded cluster. `RAY_SERVE_*` are read at import.

    HAProxy answers for the replicas, retries on another one what a dying replica did not answer, and keeps its files
    in `run_folder` (its default folder is shared by all clusters of a machine). A replica that leaves goes on answering
    for three seconds: the cluster's own HAProxy, which is all that sends to it, knows within one. Ray workers run at
    normal niceness.
    """
    # Serve adds a folder of 56 characters, and HAProxy takes socket paths of at most 97: no deeper than this.
    haproxy = run_folder
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "server.ingress:middlewares",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(haproxy / "metrics.sock"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_RETRIES": "3",
        # One log line for each request, which a Python process of Serve's would parse. trimtab has its own metrics.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3",
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "2",
        "RAY_worker_niceness": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
    }
