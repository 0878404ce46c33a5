"""What `trimtab serve` is while everything runs: a process that waits to be told to stop, and writes down the log.

    python -S standby.py LOG COMMAND...

The process that started Ray becomes this one (exec: the same process id, so that Ray's daemons are still its children, which
the kernel ends with it) and becomes COMMAND when SIGINT or SIGTERM arrives. Standard library only: it takes 10 MiB, a Ray
driver 200. LOG: the descriptor of the bound socket on which the other processes' lines arrive.
"""

import contextlib
import os
import select
import signal
import socket
import sys

#: Blocked by the process before until they have handlers here, and ignored from then on: what a second Ctrl-C cut short would
#: leave processes behind.
SIGNALS = (signal.SIGINT, signal.SIGTERM)
LONGEST_DATAGRAM = 1 << 16


def main(log: int, command: list[str]) -> None:
    """Does not return."""
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell)
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    lines = socket.socket(fileno=log)
    lines.setblocking(False)
    while True:
        ready, _, _ = select.select([log, told], [], [])
        if told in ready:
            break
        # Nobody may be there to read any more: the server goes on.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(lines.recv(LONGEST_DATAGRAM).decode(errors="replace") + "\n")
            sys.stderr.flush()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    lines.set_inheritable(True)
    os.execv(command[0], command)  # nosec B606


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
