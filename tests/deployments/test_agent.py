"""The agents that a raylet is given: they write down ports, end with it, and make way for Ray's own when that is needed."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deployments import agent

#: In the place of Ray's program: tries out whether it can bind, as urllib3 does, then binds what it is told and answers one request.
RAYS_OWN = """
import socket, sys
with socket.socket() as trial:
    trial.bind(("127.0.0.1", 0))
port = [int(word.partition("=")[2]) for word in sys.argv if word.startswith("--runtime-env-agent-port=")][-1]
with socket.socket() as s:
    s.bind(("127.0.0.1", port))
    s.listen()
    connection, _ = s.accept()
    with connection:
        print(connection.recv(100).decode(), sys.argv[0], sys.path[0], flush=True)
        connection.sendall(b"real")
"""


def command(folder: Path, role: str, *program: str) -> list[str]:
    options = ["--node-id=n1", "--node-ip-address=127.0.0.1", "--runtime-env-agent-port=0", f"--session-dir={folder}"]
    return [sys.executable, "-S", "-E", agent.__file__, role, *program, *options]


def port_of(folder: Path, name: str) -> int:
    path = folder / f"{name}_n1"
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return int(path.read_text())


@pytest.fixture
def started():
    running: list[subprocess.Popen[str]] = []

    def start(words: list[str]) -> subprocess.Popen[str]:
        running.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_that_of_the_dashboard_says_that_it_has_no_ports(tmp_path, started):
    process = started(command(tmp_path, "dashboard", "python", "-u", "never.py"))
    assert {port_of(tmp_path, name) for name in agent.NO_PORTS} == {-1}
    assert process.poll() is None


def test_that_of_runtime_environments_becomes_rays_own_without_losing_the_first_request(tmp_path, started):
    program = tmp_path / "rays" / "own.py"
    program.parent.mkdir()
    program.write_text(RAYS_OWN)
    process = started(command(tmp_path, "runtime_env", sys.executable, "-u", str(program)))
    port = port_of(tmp_path, agent.ENVIRONMENTS_PORT)
    assert process.poll() is None
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(b"request")
        assert client.recv(10) == b"real"
    assert process.stdout.read().split() == ["request", str(program), str(program.parent)]


@pytest.mark.parametrize("role", ["dashboard", "runtime_env"])
@pytest.mark.parametrize("watched", [True, False])
def test_both_end_with_the_process_that_started_them(tmp_path, started, role, watched):
    words = command(tmp_path, role, "python", "-u", "never.py")
    if not watched:  # a kernel without pidfd
        script = f"import os, runpy, sys; del os.pidfd_open; sys.argv = {words[3:]!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
        words = [sys.executable, "-c", script]
    raylet = started(
        [
            sys.executable,
            "-c",
            f"import subprocess, time; print(subprocess.Popen({words!r}).pid, flush=True); time.sleep(60)",
        ]
    )
    pid = int(raylet.stdout.readline())
    port_of(tmp_path, agent.NO_PORTS[0] if role == "dashboard" else agent.ENVIRONMENTS_PORT)
    raylet.send_signal(signal.SIGKILL)
    raylet.wait()
    deadline = time.monotonic() + 20
    while (
        Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    ):
        assert time.monotonic() < deadline, os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def test_a_command_without_what_it_needs_is_refused():
    with pytest.raises(SystemExit, match="--session-dir"):
        agent.option(["python", "-u", "main.py"], "session-dir")
