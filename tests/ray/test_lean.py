"""The embedded cluster does without Ray's agents, and still does what they are for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from deployments import agent
from deployments.runtime_env import RUN_FOLDER
from server import leave

ASK = """
import os, ray
ray.init(os.environ["ADDRESS"], runtime_env={"env_vars": {"WANTED": "here"}}, log_to_driver=False, logging_level="ERROR")
print(ray.get(ray.remote(num_cpus=0)(lambda: os.environ["WANTED"]).remote(), timeout=60))
"""


def test_a_runtime_environment_is_made_once_somebody_wants_one(server: Any) -> None:
    launched = psutil.Process(server.process.pid)
    agents = [p for p in launched.children(recursive=True) if agent.__file__ in p.cmdline()]
    assert len(agents) == 2
    environment = launched.environ()
    address = Path(environment[RUN_FOLDER], leave.ADDRESS).read_text()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASK],
        env={**os.environ, **environment, "ADDRESS": address},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.split() == ["here"], done.stderr
    assert all(p.is_running() for p in agents)
    assert server.get("/v2/health/ready").status_code == 200
