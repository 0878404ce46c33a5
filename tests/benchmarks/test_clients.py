"""The load program against a server that answers in several ways."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from typing import ClassVar

import pytest

from benchmarks.clients import Request, closed_loop, message, open_loop, poisson

LONG = b"x" * 200_000


class Peer(asyncio.Protocol):
    """Answers by the path: `/length`, `/chunks`, `/closing`, `/long`, `/late` (50 ms), `/refused` (503), `/gone` (hangs up)."""

    opened = 0
    transports: ClassVar[list[asyncio.BaseTransport]] = []

    def connection_made(self, transport):
        type(self).opened += 1
        self.transports.append(transport)
        self.transport = transport

    def data_received(self, data):
        path = data.split(b" ", 2)[1].decode()
        if path == "/gone":
            self.transport.close()
        elif path == "/late":
            asyncio.get_running_loop().call_later(0.05, self.answer, path)
        else:
            self.answer(path)

    def answer(self, path):
        if path == "/chunks":
            self.transport.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nchu\r\n")
            self.transport.write(b"3\r\nnks\r\n0\r\n\r\n")
            return
        body = LONG if path == "/long" else path.encode()
        status = b"503 Service Unavailable\r\nRetry-After: 1" if path == "/refused" else b"200 OK"
        closing = b"Connection: close\r\n" if path == "/closing" else b""
        self.transport.write(b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, closing, len(body), body))
        if closing:
            self.transport.close()


@pytest.fixture
def port() -> Iterator[int]:
    Peer.opened = 0
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(Peer, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield server.sockets[0].getsockname()[1]
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    server.close()
    while Peer.transports:
        Peer.transports.pop().abort()
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()


def ask(path):
    return message(f"http://127.0.0.1:1{path}", b"{}")


def test_an_open_loop_sends_everything_and_keeps_every_answer(port):
    paths = ["/length", "/chunks", "/closing", "/long", "/refused", "/late"]
    plan = [Request(number * 0.004, number % len(paths)) for number in range(60)]
    results = open_loop([ask(path) for path in paths], port, plan, 1.0)
    assert sorted((r.request for r in results), key=lambda r: r.at) == plan
    bodies = {"/chunks": b"chunks", "/long": LONG}
    for result in results:
        path = paths[result.request.index]
        assert (result.status, result.body) == (503 if path == "/refused" else 200, bodies.get(path, path.encode()))
        assert result.ended - result.request.at >= (0.05 if path == "/late" else 0.0)
    assert 10 < Peer.opened < 40  # one after each that is closed, and the late ones' keep theirs


def test_arrivals_do_not_wait_for_answers(port):
    results = open_loop([ask("/late")], port, [Request(0.0, 0)] * 20, 1.0)
    assert [r.status for r in results] == [200] * 20
    assert Peer.opened == 20


def test_what_is_lost_has_no_status(port):
    results = open_loop([ask("/gone"), ask("/length")], port, [Request(0.0, 0), Request(0.02, 1)], 0.5)
    assert sorted((r.request.index, r.status, r.ended > 0) for r in results) == [(0, 0, False), (1, 200, True)]


def test_clients_of_a_closed_loop_wait_for_their_answers_and_draw_what_comes_next(port):
    draws = iter([0, 1] * 10_000)
    results = closed_loop([ask("/length"), ask("/late")], port, 3, 0.5, lambda: next(draws))
    counted = Counter(r.request.index for r in results)
    assert Peer.opened == 3
    assert counted[0] == pytest.approx(counted[1], abs=3)
    assert 6 <= counted[1] <= 3 * 0.6 / 0.05
    assert all(r.status == 200 for r in results)


def test_a_plan_that_is_run_has_the_rate_that_was_asked_for(port):
    plan = poisson(400.0, 0.5, [1.0], seed=3)
    results = open_loop([ask("/length")], port, plan, 0.5)
    assert [r.request for r in sorted(results, key=lambda r: r.request.at)] == plan
    assert all(r.ended >= r.request.at for r in results)
