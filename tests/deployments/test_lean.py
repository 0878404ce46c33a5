"""Ray Serve is imported without pandas, which stays there for others; daemons are ended as far as Ray lets us."""

import importlib.util
import subprocess
import sys

import pytest
from ray._private import utils

from deployments.lean import WORKER_HOOK, end_idle_daemons, import_serve, small_agent

LOOK = """
import sys
from deployments.lean import import_serve
import_serve()
assert "ray.serve" in sys.modules
assert "pandas" not in sys.modules
from ray._private import serialization
serialization.SerializationContext(None)
assert "pyarrow" not in sys.modules
import pandas, pyarrow
pandas.DataFrame({"a": [1]})
"""


@pytest.mark.skipif(importlib.util.find_spec("pandas") is None, reason="pandas is not installed")
def test_serve_comes_without_pandas_and_pyarrow_which_come_when_wanted():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", LOOK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_workers_find_the_hook_by_its_name():
    assert f"{import_serve.__module__}.{import_serve.__qualname__}" == WORKER_HOOK


def test_each_idle_daemon_is_ended_whatever_the_others_do():
    ended = []

    class Node:
        def kill_monitor(self, check_alive):
            raise KeyError("no such process")

        def kill_dashboard(self, check_alive):
            ended.append(("dashboard", check_alive))

    end_idle_daemons(Node())
    assert ended == [("dashboard", False)]


def test_only_a_ray_that_starts_within_is_told_that_the_dashboards_packages_are_missing():
    before = utils.get_dashboard_dependency_error
    with small_agent():
        assert isinstance(utils.get_dashboard_dependency_error(), ImportError)
    assert utils.get_dashboard_dependency_error is before
