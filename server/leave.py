"""How an embedded cluster ends: Serve lets requests under way finish, then Ray's processes go, then what is left of them.

    python -m server.leave FOLDER LOG CONFIG

What `server/standby.py` becomes. FOLDER: of the cluster's run, removed at the end; LOG: the descriptor of the log's socket;
CONFIG: how lines are logged, in JSON. The environment is the one with which the cluster was started.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil

from deployments import lean
from server import logs
from server.settings import LoggingConfig

#: Ray's daemons in the order in which they end: the raylet first, which ends its workers.
DAEMONS = ("raylet", "gcs_server")
PATIENCE_SECONDS = 3.0
#: The file of the run's folder that holds the address of Ray's control store.
ADDRESS = "address"


def descendants() -> list[psutil.Process]:
    """All that this process started, and all that those did."""
    return psutil.Process().children(recursive=True)


def end(processes: Iterable[psutil.Process]) -> None:
    """Wait a little for processes that were told to end, and kill those that do not."""
    _, alive = psutil.wait_procs(list(processes), timeout=PATIENCE_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=PATIENCE_SECONDS)


def _end_daemons(processes: Iterable[psutil.Process]) -> None:
    for name in DAEMONS:
        with contextlib.suppress(psutil.Error):
            for process in processes:
                if process.name() == name:
                    process.terminate()
                    process.wait(PATIENCE_SECONDS)


def leave(address: str) -> None:
    """End the cluster at that address whose daemons are this process's children. Never raises."""
    known = descendants()
    with contextlib.suppress(Exception):
        lean.import_serve()
        import ray
        from ray import serve

        ray.init(address, namespace="serve", log_to_driver=False, logging_level="ERROR")
        serve.shutdown()
        ray.shutdown()  # disconnects: this process did not start it
    known += [process for process in descendants() if process not in known]
    _end_daemons(known)
    end(known)


def main(folder: Path, log: int, config: LoggingConfig) -> None:
    """From the request to stop to the last process gone."""
    logs.configure(config, "server")
    say = logs.speaker(config)
    say("stopping")
    receiver = logs.Receiver(socket.socket(fileno=log))
    leave((folder / ADDRESS).read_text(encoding="utf-8"))
    receiver.close()
    shutil.rmtree(folder, ignore_errors=True)
    say("stopped")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), LoggingConfig.model_validate_json(sys.argv[3]))
