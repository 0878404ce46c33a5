"""What `trimtab serve` is while everything runs: it writes the log, and becomes the program that stops everything."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from server import standby

LAST = "import os, signal, sys; print(os.getpid(), [signal.getsignal(s).name for s in (2, 15)], *sys.argv[1:])"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(tmp_path / "log"))
        yield bound


def started(log: socket.socket, first: str = "pass") -> subprocess.Popen[str]:
    """As `Cluster.hand_over` does it: the signals blocked, then exec."""
    command = [sys.executable, "-S", standby.__file__, str(log.fileno()), sys.executable, "-c", LAST, str(log.fileno())]
    become = f"import os, signal; signal.pthread_sigmask(signal.SIG_BLOCK, (2, 15)); {first}; os.execv({command[0]!r}, {command})"
    return subprocess.Popen(
        [sys.executable, "-c", become],
        pass_fds=[log.fileno()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", standby.SIGNALS)
def test_it_becomes_the_last_program_when_told_to_stop(log: socket.socket, number: signal.Signals) -> None:
    process = started(log)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.sendto("grüße".encode(), log.getsockname())
    assert process.stderr is not None
    assert process.stderr.readline() == "grüße\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    # The same process, which a second signal does not disturb, and which has the log's socket.
    assert out == f"{process.pid} ['SIG_IGN', 'SIG_IGN'] {log.fileno()}\n"
    assert (err, process.returncode) == ("", 0)


def test_a_signal_from_before_it_began_counts(log: socket.socket) -> None:
    process = started(log, first="os.kill(os.getpid(), signal.SIGTERM)")
    out, _ = process.communicate(timeout=30)
    assert out.startswith(str(process.pid))


def test_nobody_reading_the_log_does_not_end_it(log: socket.socket) -> None:
    process = started(log)
    assert process.stderr is not None
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.sendto(b"first", log.getsockname())
        assert process.stderr.readline() == "first\n"
        process.stderr.close()
        for _ in range(3):
            other.sendto(b"a line", log.getsockname())
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.read().startswith(str(process.pid))
    process.stdout.close()
    assert process.wait(timeout=30) == 0
