"""What Ray starts and imports that an embedded cluster of one node does without."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from deployments import agent, later, worker

#: Imported by Ray at its start and used by nothing here, or only in some of its processes.
LATER = ("jsonschema", "numpy", "requests", "yaml")
#: What Ray takes along where it is installed: for data frames in answers, progress bars, traces of its own, reloading.
ABSENT = ("pandas", "opentelemetry", "tqdm.auto", "watchfiles")
#: httpx's command line, which imports rich and pygments.
NEVER = ("httpx._main",)
#: What Ray Serve asks its applications whether they are.
STAND_INS = ("fastapi", "fastapi.encoders", "fastapi.routing")

#: Ray's program for workers in the raylet's command for them.
WORKER = re.compile(r'(?<=\s)("[^"]*default_worker\.py"|[^\s"]*default_worker\.py)(?=\s)')

#: What Ray's processes do over and over, several times a second, for its dashboard, for their logs or for clusters of many nodes:
#: each time wakes one of the cores that models run on.
SELDOM = {
    "RAY_task_events_report_interval_ms": "0",
    "RAY_event_stats": "0",
    "RAY_event_stats_print_interval_ms": "0",
    "RAY_debug_dump_period_milliseconds": "0",
    "RAY_raylet_report_resources_period_milliseconds": "1000",
    "RAY_object_manager_timer_freq_ms": "1000",
    "RAY_kill_idle_workers_interval_ms": "1000",
    "RAY_memory_monitor_refresh_ms": "1000",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "5000",
}


def environment(*, metrics: bool) -> dict[str, str]:
    """For all processes of an embedded cluster. `metrics`: somebody asks for Ray's own."""
    # Workers with nothing to do are not kept: 80 MiB each, and nothing here waits for one.
    return {
        "RAY_num_workers_soft_limit": "0",
        **SELDOM,
        **({} if metrics else {"RAY_enable_metrics_collection": "0"}),
    }


def import_serve() -> None:
    """Import Ray Serve without what it takes along and nothing here uses (pandas alone is 70 MiB in each process, pyarrow 30,
    the rest 15). Code that wants it finds it afterwards."""
    with later.absent(ABSENT), later.stand_ins(STAND_INS), later.lent("numpy", ("ndarray", "generic")):
        import ray.serve
        import ray.serve._private.controller  # noqa: F401
    from ray._private import arrow_serialization

    arrow_serialization._register_custom_datasets_serializers = lambda context: None


@contextlib.contextmanager
def small(*, metrics: bool) -> Iterator[None]:
    """A Ray that starts within runs `deployments/worker.py` for each worker, and `deployments/agent.py` in place of the two agents
    of its node: 180 MiB less. `metrics`: the agent that exports Ray's own stays as it is. Where Ray's internals have changed its
    own programs are started."""
    from ray._private import services

    before = services.start_ray_process
    agents = ("runtime_env",) if metrics else ("runtime_env", "dashboard")

    def start(command: list[str], *args: Any, **options: Any) -> Any:
        return before([_ours(word, agents) for word in command], *args, **options)

    services.start_ray_process = start
    try:
        yield
    finally:
        services.start_ray_process = before


def _ours(word: str, agents: Sequence[str]) -> str:
    """An argument of the raylet's with ours in place of Ray's programs."""
    if word.startswith("--python_worker_command="):
        before = subprocess.list2cmdline([worker.__file__])
        return WORKER.sub(lambda found: f"{before} {found[0]}", word, count=1)
    for role in agents:
        prefix = f"--{role}_agent_command="
        if word.startswith(prefix):
            program = subprocess.list2cmdline([sys.executable, "-S", "-E", agent.__file__, role])
            return f"{prefix}{program} {word.removeprefix(prefix)}"
    return word


def let_go() -> None:
    """Disconnect this process from the Ray that it started, and leave that running."""
    import ray

    ray._private.worker._global_node = None
    ray.shutdown()


def end_idle_daemons(node: Any) -> None:
    """End Ray's autoscaler, log monitor and dashboard (`node`: Ray's own of this process): nodes are neither added nor
    looked after here, logs go to trimtab's own receiver, and the dashboard is off; 280 MiB together. Ray has no setting
    for it. Where its internals have changed they are left running."""
    for end in ("kill_monitor", "kill_log_monitor", "kill_dashboard"):
        with contextlib.suppress(Exception):
            getattr(node, end)(check_alive=False)
