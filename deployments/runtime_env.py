"""Environment variables that must be set before the processes that read them start."""

from __future__ import annotations

from pathlib import Path

#: For each model host. Blocks of 64 KiB and more are mapped apart, so that freeing a model returns them to the system
#: instead of leaving holes in the heap; two arenas keep many threads from holding one each.
HOST_ENVIRONMENT: dict[str, str] = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_ARENA_MAX": "2",
    "TOKENIZERS_PARALLELISM": "false",
}

#: What HAProxy's launcher (`server/haproxy.py`) and the hosts share: only HAProxy can tell a host whose client certificate
#: it saw.
PROXY_SECRET = "TRIMTAB_PROXY_SECRET"  # nosec B105


#: Ports that a cluster's replicas may listen on, for each of the two protocols.
REPLICA_PORTS = 100


def serve_environment(
    run_folder: Path, *, metrics_port: int, stats_port: int, replica_ports: int | None = None
) -> dict[str, str]:
    """For every Ray and Serve process of an embedded cluster. `RAY_SERVE_*` are read at import.

    HAProxy answers for the replicas, retries on another one what a dying replica did not answer, and keeps its files
    in `run_folder` (its default folder is shared by all clusters of a machine). A replica that leaves goes on answering
    for three seconds: the cluster's own HAProxy, which is all that sends to it, knows within one. Ray workers run at
    normal niceness. `replica_ports`: the first of 2 x REPLICA_PORTS ports that no other cluster of the machine uses: where
    two share them, one's HAProxy may reach the other's replica; None: Serve's own, for a machine (or pod) with one cluster.
    """
    # Serve adds a folder of 56 characters, and HAProxy takes socket paths of at most 97: no deeper than this.
    haproxy = run_folder
    ports = {}
    if replica_ports is not None:
        first = {"HTTP": replica_ports, "GRPC": replica_ports + REPLICA_PORTS}
        ports = {f"RAY_SERVE_DIRECT_INGRESS_MIN_{kind}_PORT": str(port) for kind, port in first.items()}
        ports |= {
            f"RAY_SERVE_DIRECT_INGRESS_MAX_{kind}_PORT": str(port + REPLICA_PORTS) for kind, port in first.items()
        }
    return {
        **ports,
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
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3",
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "2",
        "RAY_worker_niceness": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
    }
