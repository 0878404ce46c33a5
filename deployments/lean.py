"""What Ray starts and imports that an embedded cluster of one node does without."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

#: As Ray names it to its workers: run in each of them before anything of ours.
WORKER_HOOK = "deployments.lean.import_serve"


def import_serve() -> None:
    """Import Ray Serve without pandas and pyarrow, which Ray takes along where they are installed, only for data frames in
    answers and datasets in arguments: 70 and 30 MiB in each process. Code that wants them finds them afterwards."""
    from ray._private import arrow_serialization

    arrow_serialization._register_custom_datasets_serializers = lambda context: None
    if "pandas" in sys.modules:
        return
    sys.modules["pandas"] = None  # type: ignore[assignment]  # to `import`: not there
    try:
        import ray.serve  # noqa: F401
    finally:
        del sys.modules["pandas"]


@contextlib.contextmanager
def small_agent() -> Iterator[None]:
    """Of a Ray that starts within, the agent of each node does what it does where the dashboard's packages are not
    installed: 50 MiB less, no metrics of Ray's own, and nothing in any process gathers them."""
    from ray._private import utils

    before = utils.get_dashboard_dependency_error
    utils.get_dashboard_dependency_error = lambda: ImportError("the dashboard is off")
    try:
        yield
    finally:
        utils.get_dashboard_dependency_error = before


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
