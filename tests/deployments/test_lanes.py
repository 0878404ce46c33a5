"""Whose turn it is."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from deployments.lanes import Claimant, Lanes


class Call:
    brief = False

    def __init__(self, owner, seconds):
        self.owner, self.seconds = owner, seconds

    def run(self):
        pass

    def ended(self):
        pass

    def finish(self):
        self.owner.done.append(self.owner.name)


class Always(Claimant):
    """Has `left` calls of `seconds` (claimed, not slept) to make."""

    def __init__(self, name, seconds, done, left=1000):
        super().__init__()
        self.name, self.seconds, self.done, self.left = name, seconds, done, left

    def has_work(self):
        return self.left > 0

    def next_job(self):
        if not self.left:
            return None
        self.left -= 1
        return Call(self, self.seconds)


async def until_count(done, count):
    while len(done) < count:  # noqa: ASYNC110 - the test's own timeout bounds it
        await asyncio.sleep(0.001)


async def test_busy_claimants_get_equal_engine_time():
    done: list[str] = []
    lanes = Lanes(1)
    for claimant in (Always("small", 1.0, done), Always("big", 4.0, done)):
        lanes.offer(claimant)
    await until_count(done, 200)
    lanes.close()
    seconds = {"small": done[:200].count("small"), "big": 4 * done[:200].count("big")}
    assert abs(seconds["small"] - seconds["big"]) <= 8


async def test_a_call_in_place_of_two_counts_twice():
    done: list[str] = []
    lanes = Lanes(1)
    wide = Always("wide", 1.0, done)
    wide.width = 2
    for claimant in (wide, Always("other", 1.0, done)):
        lanes.offer(claimant)
    await until_count(done, 150)
    lanes.close()
    assert abs(done[:150].count("wide") - 50) <= 4


async def test_one_that_was_idle_goes_next_and_earns_no_credit():
    done: list[str] = []
    lanes = Lanes(1)
    lanes.offer(Always("busy", 1.0, done))
    await until_count(done, 50)
    late = Always("late", 1.0, done)
    at = len(done)
    lanes.offer(late)
    await until_count(done, at + 60)
    lanes.close()
    after = done[at : at + 60]
    assert "late" in after[:3]
    assert 25 <= after.count("late") <= 35  # equal from then on: not all turns to make up for being idle


@pytest.mark.parametrize(("width", "at_once"), [(1, 2), (2, 1), (3, 1)])
async def test_one_claimant_never_takes_the_last_lane(monkeypatch, width, at_once):
    lanes = Lanes(3)
    running, most = set(), 0
    run = Call.run

    class Slow(Always):
        def next_job(self):
            nonlocal most
            if (job := super().next_job()) is not None:
                running.add(job)
                most = max(most, len(running))
            return job

    def counted(self):
        run(self)
        running.discard(self)

    monkeypatch.setattr(Call, "run", counted)
    done: list[str] = []
    slow = Slow("slow", 0.0, done, left=50)
    slow.width = width
    lanes.offer(slow)
    await until_count(done, 50)
    lanes.close()
    assert most == at_once


async def test_the_next_call_begins_before_the_results_of_the_last_are_handed_out():
    order: list[str] = []

    class Told(Always):
        def next_job(self):
            order.append("begun")
            return super().next_job()

    class Done(list[str]):
        def append(self, name):
            order.append("handed out")
            super().append(name)

    done = Done()
    lanes = Lanes(1)
    lanes.offer(Told("a", 0.0, done, left=3))
    await until_count(done, 3)
    lanes.close()
    assert order[:5] == ["begun", "begun", "handed out", "begun", "handed out"]


async def test_nothing_runs_after_close():
    done: list[str] = []
    lanes = Lanes(1)
    lanes.close()
    lanes.offer(Always("a", 1.0, done))
    await asyncio.sleep(0.01)
    assert done == []


class Time:
    """A clock that is moved by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Quick(Always):
    """Makes its calls on the event loop; each moves the clock by what it takes."""

    def __init__(self, time, seconds, done, left):
        super().__init__("a", seconds, done, left)
        self.time, self.threads = time, set()

    def next_job(self):
        job = super().next_job()
        if job is not None:
            job.brief, job.run = True, self.run
        return job

    def run(self):
        self.threads.add(threading.current_thread())
        self.time.now += self.seconds


async def test_a_brief_call_is_made_on_the_event_loop_one_in_each_pass():
    done: list[str] = []
    time = Time()
    lanes = Lanes(2, clock=time)
    lanes.offer(claimant := Quick(time, 0.001, done, left=3))
    assert done == []
    passes = []
    for _ in range(3):
        await asyncio.sleep(0)
        passes.append(len(done))
    lanes.close()
    assert passes == [1, 2, 3]
    assert claimant.threads == {threading.current_thread()}


async def test_brief_calls_take_as_long_as_what_else_the_event_loop_had_to_do():
    done: list[str] = []
    time = Time()
    lanes = Lanes(2, clock=time)
    time.now = 10.0  # how long it was idle before does not count
    lanes.offer(Quick(time, 0.25, done, left=9))
    time.now += 1.0  # others are looked after
    passes = []
    for _ in range(3):
        await asyncio.sleep(0)
        passes.append(len(done))
    lanes.close()
    assert passes == [4, 5, 6]


async def test_how_long_a_lane_was_taken_is_no_reason_for_brief_calls_in_a_row():
    class Later:
        def submit(self, function, *arguments):
            self.work = function, arguments

        def close(self):
            pass

    done: list[str] = []
    time, pool = Time(), Later()
    lanes = Lanes(1, clock=time, pool=pool)
    lanes.offer(Always("long", 100.0, done, left=1))
    await asyncio.sleep(0)
    lanes.offer(Quick(time, 0.25, done, left=3))
    time.now += 100.0
    function, arguments = pool.work
    function(*arguments)
    passes = []
    for _ in range(3):
        await asyncio.sleep(0)
        passes.append(done.count("a"))
    lanes.close()
    assert passes == [1, 2, 3]


class Ample(Always):
    """As `Always`, and as full whenever it is called."""

    def full_job(self):
        return self.next_job()


async def test_one_that_is_busy_alone_has_its_next_call_at_hand():
    """The event loop is kept busy, and the engine goes on with one call more."""
    done: list[str] = []
    ran = threading.Semaphore(0)

    class Seen(Call):
        def run(self):
            ran.release()

    class Alone(Ample):
        def next_job(self):
            if super().next_job() is None:
                return None
            return Seen(self, self.seconds)

    lanes = Lanes(2)
    alone = Alone("alone", 1.0, done, left=3)
    lanes.offer(alone)
    await asyncio.sleep(0)  # dispatched
    assert all(ran.acquire(timeout=20) for _ in range(2))  # without the event loop
    assert not done
    await until_count(done, 3)
    assert (alone.running, alone.used, len(alone.at_hand)) == (0, 3.0, 0)
    assert not lanes._active
    assert lanes._free == 2
    lanes.close()


async def test_nothing_is_at_hand_while_others_have_calls_to_make():
    done: list[str] = []
    lanes = Lanes(1)
    claimants = [Ample("small", 1.0, done), Ample("big", 4.0, done)]
    for claimant in claimants:
        lanes.offer(claimant)
    await until_count(done, 200)
    lanes.close()
    seconds = {"small": done[:200].count("small"), "big": 4 * done[:200].count("big")}
    assert abs(seconds["small"] - seconds["big"]) <= 12


async def test_a_call_at_hand_that_its_thread_missed_is_made_all_the_same():
    """It is put there after the thread has looked, and before the event loop hears of the end."""
    done: list[str] = []
    lanes = Lanes(2)
    alone = Always("alone", 1.0, done, left=1)
    lanes.offer(alone)
    await asyncio.sleep(0)
    deadline = asyncio.get_running_loop().time() + 20
    while not asyncio.get_running_loop()._ready and asyncio.get_running_loop().time() < deadline:  # type: ignore[attr-defined]
        time.sleep(0.001)  # noqa: ASYNC251 - the event loop must not hear of it yet
    alone.at_hand.append((Call(alone, 1.0), alone.epoch))
    await until_count(done, 2)
    assert (alone.running, lanes._free, len(alone.at_hand)) == (0, 2, 0)
    lanes.close()
