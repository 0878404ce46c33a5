"""What Ray starts and imports that an embedded cluster of one node does without."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

#: As Ray names it to its workers: run in each of them before anything of ours.
WORKER_HOOK = "deployments.lean.import_serve"


def import_serve() -> None:
    """Import Ray Serve without pandas, which it takes along where it is installed, only to encode data frames in answers
    of deployments that return some: 70 MiB in each process. Code that wants pandas finds it afterwards."""
    if "pandas" in sys.modules:
        return
    sys.modules["pandas"] = None  # type: ignore[assignment]  # to `import`: not there
    try:
        import ray.serve  # noqa: F401
    finally:
        del sys.modules["pandas"]


def end_idle_daemons(node: Any) -> None:
    """End Ray's autoscaler, log monitor and dashboard (`node`: Ray's own of this process): nodes are neither added nor
    looked after here, logs go to trimtab's own receiver, and the dashboard is off; 280 MiB together. Ray has no setting
    for it. Where its internals have changed they are left running."""
    for end in ("kill_monitor", "kill_log_monitor", "kill_dashboard"):
        with contextlib.suppress(Exception):
            getattr(node, end)(check_alive=False)
