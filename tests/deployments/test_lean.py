"""Ray Serve is imported without what it does not need, which stays there for others; daemons are replaced and ended as far as
Ray lets us."""

import importlib.util
import inspect
import subprocess
import sys

import pytest
from ray._private import services

from deployments import agent, worker
from deployments.lean import _ours, end_idle_daemons, small

LOOK = """
import sys
from deployments import later, lean
sys.meta_path.insert(0, later.Finder(lean.LATER))
lean.import_serve()
assert "ray.serve" in sys.modules
from ray._private import serialization
serialization.SerializationContext(None)
found = {"pandas", "pyarrow", "fastapi", "opentelemetry", "watchfiles"} & sys.modules.keys()
assert not found, found
run = [name for name in lean.LATER if not later.waits(name)]
assert not run, run
import fastapi, numpy, requests
from ray.serve._private import utils
assert numpy.ndarray is type(numpy.zeros(1)), numpy.ndarray
assert utils.np.ndarray is numpy.ndarray
assert issubclass(requests.exceptions.ConnectionError, requests.RequestException)
assert fastapi.FastAPI().openapi()
"""
DATA_FRAMES = """
from deployments.lean import import_serve
import_serve()
import pandas, pyarrow
pandas.DataFrame({"a": [1]})
"""
#: As Ray's worker program: says what it was given, and whether Serve is there.
PROGRAM = """
import os, sys
print(*sys.argv, os.path.dirname(sys.argv[0]) in sys.path, 'ray.serve' in sys.modules, __name__)
"""


def run(*words):
    done = subprocess.run([sys.executable, "-W", "ignore", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_serve_comes_without_what_nothing_here_uses_which_comes_when_wanted():
    run("-c", LOOK)


@pytest.mark.skipif(importlib.util.find_spec("pandas") is None, reason="pandas is not installed")
def test_data_frames_are_there_afterwards():
    run("-c", DATA_FRAMES)


def test_a_worker_is_rays_program_with_serve_imported(tmp_path):
    program = tmp_path / "default_worker.py"
    program.write_text(PROGRAM)
    assert run(worker.__file__, str(program), "--a=1").split() == [str(program), "--a=1", "True", "True", "__main__"]


def test_each_idle_daemon_is_ended_whatever_the_others_do():
    ended = []

    class Node:
        def kill_monitor(self, check_alive):
            raise KeyError("no such process")

        def kill_dashboard(self, check_alive):
            ended.append(("dashboard", check_alive))

    end_idle_daemons(Node())
    assert ended == [("dashboard", False)]


@pytest.mark.parametrize("metrics", [True, False])
def test_only_a_ray_that_starts_within_is_given_other_programs(monkeypatch, metrics):
    started = []
    monkeypatch.setattr(
        services, "start_ray_process", lambda command, *args, **options: started.append((command, args, options))
    )
    before = services.start_ray_process
    command = [
        "raylet",
        "--python_worker_command=python /ray/setup_worker.py /ray/default_worker.py --x=/ray/default_worker.py",
        "--dashboard_agent_command=python -u /ray/agent.py",
        "--runtime_env_agent_command=python -u /ray/main.py",
        "--other=1",
    ]
    with small(metrics=metrics):
        services.start_ray_process(command, "raylet", fate_share=True)
    assert services.start_ray_process is before
    [(words, args, options)] = started
    assert (args, options) == (("raylet",), {"fate_share": True})
    ours = f"{sys.executable} -S -E {agent.__file__}"
    assert words == [
        "raylet",
        f"--python_worker_command=python /ray/setup_worker.py {worker.__file__} /ray/default_worker.py --x=/ray/default_worker.py",
        command[2] if metrics else f"--dashboard_agent_command={ours} dashboard python -u /ray/agent.py",
        f"--runtime_env_agent_command={ours} runtime_env python -u /ray/main.py",
        "--other=1",
    ]


@pytest.mark.parametrize("program", ["/ray/default_worker.py", '"/my ray/default_worker.py"'])
def test_a_program_in_a_folder_with_a_blank_in_its_name_is_still_one_word(program):
    word = f"--python_worker_command=python {program} --node=1"
    assert _ours(word, ()) == f"--python_worker_command=python {worker.__file__} {program} --node=1"


def test_rays_start_still_has_what_is_replaced():
    """Names of Ray's that `lean` relies on: without them its own programs would be started."""
    source = inspect.getsource(services.start_raylet)
    for words in (
        "--python_worker_command=",
        "--dashboard_agent_command=",
        "--runtime_env_agent_command=",
        "start_ray_process(",
    ):
        assert words in source
