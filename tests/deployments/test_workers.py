"""Threads for engine calls."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref

from deployments.workers import Workers


def test_as_many_at_once_as_there_are_threads():
    workers = Workers(2, "engine")
    meeting = threading.Barrier(3)
    names = []

    def meet():
        names.append(threading.current_thread().name)
        meeting.wait(20)

    workers.submit(meet)
    workers.submit(meet)
    meeting.wait(20)
    assert sorted(names) == ["engine_0", "engine_1"]
    workers.close()


def test_what_is_returned_comes_next_in_the_same_thread():
    workers = Workers(2, "engine")
    done = threading.Event()
    names = []

    def call(left):
        names.append(threading.current_thread().name)
        if not left:
            done.set()
            return None
        return call, (left - 1,)

    workers.submit(call, 5)
    assert done.wait(20)
    assert len(names) == 6
    assert len(set(names)) == 1
    workers.close()


def test_threads_end_when_closed_and_hold_nothing_while_idle():
    workers = Workers(1, "engine")
    done = threading.Event()

    class Big:
        def run(self):
            done.set()

    big = Big()
    gone = weakref.ref(big)
    workers.submit(big.run)
    assert done.wait(20)
    del big
    after = threading.Event()
    workers.submit(after.set)
    assert after.wait(20)
    gc.collect()
    assert gone() is None
    (thread,) = workers._threads
    workers.close()
    thread.join(20)
    assert not thread.is_alive()


def test_a_process_ends_when_what_runs_has_ended():
    code = (
        "import time\nfrom deployments.workers import Workers\n"
        "w = Workers(2, 'engine')\nw.submit(lambda: time.sleep(0.2) or print('done', flush=True))\ntime.sleep(0.05)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")
