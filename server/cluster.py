"""`trimtab serve`: an embedded Ray cluster with the application on it, from start to last process gone."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import httpx

from deployments import lean
from deployments.api import Assignment
from deployments.runtime_env import HOST_ENVIRONMENT, RUN_FOLDER, serve_environment
from server import leave, logs, standby
from server.proxy import proxy_environment
from server.settings import Settings
from variants.device import cpu_share
from variants.errors import ConfigError, TrimtabError

READY_SECONDS = 300.0
#: HAProxy's sockets lie below a folder made here (by mkdtemp), and their paths must be short.
SHORT_FOLDER = "/tmp"  # nosec B108
BLOCKS_START, BLOCKS_END = 20_000, 32_000
OBJECT_STORE_BYTES = 100 << 20
#: HAProxy takes 20 to 40 microseconds of one for a request.
MOST_PROXY_THREADS = 4


class ServeFailed(TrimtabError):
    """The application did not come up; the message says what Ray Serve or the models reported."""


def serve_config(settings: Settings, assignment: Assignment) -> dict[str, Any]:
    """The declarative Serve config: `ServeDeploySchema` as a mapping. The plan is the host deployment's user_config."""
    from deployments.actuator import to_user_config
    from server.ingress import APPLICATION, HOST

    application = {
        "name": APPLICATION,
        "import_path": "server.ingress:build",
        "route_prefix": "/",
        "args": settings.model_dump(mode="json"),
        "deployments": [
            {"name": HOST, "num_replicas": settings.replicas, "user_config": to_user_config(assignment)},
        ],
    }
    return {"applications": [application]}


def free_ports(count: int) -> list[int]:
    """Distinct TCP ports that were free on loopback a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [int(s.getsockname()[1]) for s in sockets]


def free_block(size: int) -> int:
    """The first of `size` consecutive TCP ports that were free a moment ago, below those that the system hands out. Where
    the search begins depends on the process: two servers that start together look in different places. Raises ConfigError.
    """
    blocks = (BLOCKS_END - BLOCKS_START) // size
    for number in range(blocks):
        first = BLOCKS_START + (os.getpid() * 7 + number) % blocks * size
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(
                first, first + size
            ):  # not shared: a replica of another server may listen with SO_REUSEPORT
                stack.enter_context(socket.socket()).bind(("", port))
            return first
    raise ConfigError(f"no {size} consecutive ports are free between {BLOCKS_START} and {BLOCKS_END}")


def check_ports(settings: Settings) -> None:
    """Raises ConfigError when one of the server's ports is taken."""
    server = settings.server
    ports = (
        ("http_port", server.host, server.http_port),
        ("grpc_port", server.host, server.grpc_port),
        ("admin_port", server.admin_address, server.admin_port),
    )
    for name, host, port in ports:
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind((host, port))
            except OSError as error:
                raise ConfigError(f"server.{name}: cannot bind {host}:{port}: {error}") from error


def _listens(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


class Cluster:
    """An embedded cluster. Use as a context manager: leaving it stops every process it started."""

    def __init__(self, settings: Settings, assignment: Assignment, *, extra_env: Mapping[str, str] | None = None):
        self._settings = settings
        self._assignment = assignment
        self._extra_env = dict(extra_env or {})
        self._folder: Path | None = None
        self._logs: logs.Receiver | None = None
        self._environment: dict[str, str | None] = {}

    def __enter__(self) -> Cluster:
        """Start Ray and deploy; does not wait for the models. Raises ConfigError, ServeFailed."""
        check_ports(self._settings)
        self._folder = Path(tempfile.mkdtemp(prefix="trimtab-", dir=SHORT_FOLDER))
        block = 2 * max(16, 4 * self._settings.replicas)  # replicas that leave keep theirs while new ones start
        # Out of the system's own range: what it had found free might be some connection's by the time that it is bound.
        http_block = free_block(block + 4)
        grpc_block = http_block + block // 2
        metrics_port, stats_port, fallback_http, fallback_grpc = range(http_block + block, http_block + block + 4)
        environment = serve_environment(self._folder, metrics_port=metrics_port, stats_port=stats_port)
        environment |= {
            # Replicas share their gRPC ports (SO_REUSEPORT): with the default ones, those of two servers on a machine would
            # answer each other's requests.
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(http_block),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(grpc_block - 1),
            "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(grpc_block),
            "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(http_block + block - 1),
            RUN_FOLDER: str(self._folder),
            # HAProxy's threads run on the cores that the hosts need, too: where there are two, one of them is faster.
            "RAY_SERVE_HAPROXY_NBTHREAD": str(max(1, min(MOST_PROXY_THREADS, int(cpu_share() // 2)))),
            # Fixed by default: of two servers on a machine, one would be sent the other's requests.
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_http),
            "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(fallback_grpc),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            logs.SOCKET: str(self._folder / "log.sock"),
            "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": str(self._settings.server.max_body_bytes),
        }
        environment |= proxy_environment(self._settings.server, self._folder) | HOST_ENVIRONMENT
        environment |= lean.environment(metrics=bool(self._settings.metrics.ray_port))
        environment |= self._extra_env
        self._environment = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        self._logs = logs.Receiver(self._folder / "log.sock")
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def _start(self) -> None:
        lean.import_serve()
        from ray import serve
        from ray.serve.context import _get_global_client
        from ray.serve.schema import ServeDeploySchema

        settings = self._settings
        self._start_ray()
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": settings.server.host, "port": settings.server.http_port},
            grpc_options={
                "port": settings.server.grpc_port,
                "grpc_servicer_functions": ["server.ingress.add_grpc_services"],
            },
        )
        schema = ServeDeploySchema.model_validate(serve_config(settings, self._assignment))
        _get_global_client().deploy_apps(schema)

    def _start_ray(self) -> None:
        import ray

        settings = self._settings
        cpus = max(os.cpu_count() or 1, int(settings.replicas * settings.resources.num_cpus + 0.999))
        ray_port = settings.metrics.ray_port
        try:
            with lean.small(metrics=bool(ray_port)):
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _metrics_export_port=ray_port or None,
                )
        except Exception as error:  # Ray has no class of its own for it
            raise ServeFailed(f"Ray did not start, see its logs under /tmp/ray/session_latest: {error}") from error
        lean.end_idle_daemons(ray._private.worker._global_node)

    def wait_ready(
        self, timeout_seconds: float = READY_SECONDS, *, cancelled: Callable[[], bool] = lambda: False
    ) -> None:
        """Return when every model answers through the client port and the admin port listens, or when `cancelled()`.

        Raises ServeFailed with what is known.
        """
        server = self._settings.server
        base = f"{'http' if server.tls is None else 'https'}://{server.host}:{server.http_port}"
        deadline = time.monotonic() + timeout_seconds
        last = "no answer yet"
        # Our own server on our own machine, whatever name its certificate is for.
        with httpx.Client(base_url=base, timeout=5.0, trust_env=False, verify=False) as client:  # nosec B501
            while time.monotonic() < deadline:
                if cancelled():
                    return
                try:
                    answer = client.get("/v2/health/ready")
                    if answer.status_code == 200:
                        if _listens(server.admin_address, server.admin_port):
                            return
                        answer = httpx.Response(503, text="the models are ready, the admin port is not")
                    last = f"HTTP {answer.status_code}: {answer.text[:300]}"
                except httpx.HTTPError as error:
                    last = str(error)
                if problem := self._deploy_failure():
                    raise ServeFailed(problem)
                time.sleep(0.1)
        raise ServeFailed(f"not ready after {timeout_seconds:.0f} s ({last})")

    def _deploy_failure(self) -> str:
        from ray.serve.context import _get_global_client

        from server.ingress import APPLICATION

        details = _get_global_client().get_serve_details()["applications"].get(APPLICATION, {})
        if details.get("status") in ("DEPLOY_FAILED", "UNHEALTHY"):
            messages = [details.get("message", "")]
            messages += [d.get("message", "") for d in details.get("deployments", {}).values()]
            return "\n".join(m for m in messages if m)
        return ""

    def hand_over(self, stopped: Callable[[], bool]) -> NoReturn:
        """Become `server/standby.py`, which becomes `server/leave.py` when told to stop; at once if `stopped()` already.
        Of the main thread, which started Ray."""
        import ray

        assert self._folder is not None
        assert self._logs is not None
        signal.pthread_sigmask(signal.SIG_BLOCK, standby.SIGNALS)
        (self._folder / leave.ADDRESS).write_text(ray.get_runtime_context().gcs_address, encoding="utf-8")
        lean.let_go()
        log, config = str(self._logs.detach()), self._settings.logging.model_dump_json()
        command = [sys.executable, "-P", "-m", leave.__name__, str(self._folder), log, config]
        if not stopped():
            command = [sys.executable, "-S", standby.__file__, log, *command]
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(command[0], command)  # nosec B606

    def close(self) -> None:
        """Stop Serve and Ray, then whatever of their processes is still there. Idempotent."""
        with _uninterrupted():
            known = leave.descendants()
            import ray
            from ray import serve

            if ray.is_initialized():
                with contextlib.suppress(Exception):
                    serve.shutdown()
                ray.shutdown()
            leave.end(known)
            if self._logs is not None:
                self._logs.close()
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
                self._folder = None
            for name, before in self._environment.items():
                if before is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = before
            self._environment.clear()

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Keep a second Ctrl-C from leaving processes behind. Outside the main thread signals cannot be held: no effect."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def run(settings: Settings, assignment: Assignment, say: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; once ready, as another program in this process (see `Cluster.hand_over`). Raises
    ConfigError, ServeFailed."""
    stop = threading.Event()
    started = time.monotonic()
    server = settings.server
    handlers = {s: signal.signal(s, lambda *_: stop.set()) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        with Cluster(settings, assignment) as cluster:
            for s in handlers:  # Ray installs its own while it starts
                signal.signal(s, lambda *_: stop.set())
            cluster.wait_ready(cancelled=stop.is_set)
            if not stop.is_set():
                scheme = "http" if server.tls is None else "https"
                where = f"{scheme}://{server.host}:{server.http_port} and grpc://{server.host}:{server.grpc_port}"
                say(f"ready in {time.monotonic() - started:.1f} s: {where}")
                say(f"admin API and operations page: {scheme}://{server.admin_address}:{server.admin_port}/ui/")
            cluster.hand_over(stop.is_set)
    finally:
        for s, handler in handlers.items():
            signal.signal(s, handler)
