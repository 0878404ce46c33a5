"""What Ray's raylet runs in place of its two agents, which an embedded cluster has nothing to do for.

    python -S -E agent.py dashboard|runtime_env COMMAND...

COMMAND: the agent's own. A raylet cannot be without its agents: it waits until they have written down their ports, and ends when
one of them does. Standard library only: each takes 10 MiB, Ray's own 120 and 80. That of the dashboard never becomes more. That
of runtime environments becomes COMMAND, with the port that it had, as soon as the raylet wants it: when a task or an actor has a
runtime environment.
"""

import os
import select
import socket
import sys
from pathlib import Path

#: As Ray names the files in its session's folder; "-1" tells the raylet that there is no such service.
NO_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")
ENVIRONMENTS_PORT = "runtime_env_agent_port"
#: How long an agent outlives its raylet where the kernel does not tell when a process ends.
ORPHAN_SECONDS = 1.0


def option(command: list[str], name: str) -> str:
    """The value of a command's option of that name. Raises SystemExit where it has none."""
    prefix = f"--{name}="
    for word in command:
        if word.startswith(prefix):
            return word.removeprefix(prefix)
    raise SystemExit(f"the agent's command has no {prefix}")


def write_port(command: list[str], name: str, port: int) -> None:
    """Tell the raylet an agent's port."""
    path = Path(option(command, "session-dir"), f"{name}_{option(command, 'node-id')}")
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(str(port), encoding="ascii")
    unfinished.rename(path)


def wait(sockets: list[socket.socket]) -> bool:
    """Return True when one of the sockets can be read, False once the parent process is gone."""
    parent = os.getppid()
    try:
        gone, patience = [os.pidfd_open(parent)], None
    except (OSError, AttributeError):
        gone, patience = [], ORPHAN_SECONDS
    while os.getppid() == parent:
        ready, _, _ = select.select([*(s.fileno() for s in sockets), *gone], [], [], patience)
        if any(s.fileno() in ready for s in sockets):
            return True
    return False


def dashboard(command: list[str]) -> None:
    """Until the raylet is gone."""
    for name in NO_PORTS:
        write_port(command, name, -1)
    wait([])


def runtime_env(command: list[str]) -> None:
    """Until the raylet is gone, or wants an environment."""
    where = option(command, "node-ip-address"), int(option(command, "runtime-env-agent-port") or 0)
    family, kind, protocol, _, address = socket.getaddrinfo(*where, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
        port = listening.getsockname()[1]
        write_port(command, ENVIRONMENTS_PORT, port)
        if wait([listening]):
            listening.set_inheritable(True)
            program = [sys.executable, "-u", __file__, take_over.__name__, str(listening.fileno())]
            given = f"--runtime-env-agent-port={port}"  # the last one counts
            os.execv(program[0], [*program, *command[command.index("-u") + 1 :], given])  # nosec B606


def take_over(listening: int, command: list[str]) -> None:
    """Run a script of Ray's, COMMAND without its interpreter, with the socket that a request already waits at in place of the
    one that it binds to the same address."""
    import runpy

    waiting = socket.socket(fileno=listening)
    plain = socket.socket

    class Bound(plain):  # type: ignore[valid-type, misc]
        def bind(self, address: object) -> None:
            if address != waiting.getsockname():
                super().bind(address)
                return
            socket.socket = plain  # type: ignore[misc]
            os.dup2(listening, self.fileno(), inheritable=False)
            waiting.close()

    socket.socket = Bound  # type: ignore[misc]
    sys.argv = command
    sys.path[0] = str(Path(command[0]).parent)
    runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    if sys.argv[1] == take_over.__name__:
        take_over(int(sys.argv[2]), sys.argv[3:])
    else:
        {"dashboard": dashboard, "runtime_env": runtime_env}[sys.argv[1]](sys.argv[2:])
