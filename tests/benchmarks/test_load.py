"""The plans of open-loop load, and what their answers come to."""

import itertools

import pytest

from benchmarks.clients import Request, Result, message, poisson, zipf
from benchmarks.generators import LoadFailed
from benchmarks.swap import phase, variant_of
from benchmarks.workloads.context import judged
from benchmarks.workloads.tiny import numbers


def right(result):
    return result.status == 200


def test_a_plan_has_the_rate_and_the_weights_and_is_the_same_again():
    plan = poisson(200.0, 50.0, [3.0, 1.0], seed=1)
    assert len(plan) == pytest.approx(10_000, rel=0.05)
    assert sum(request.index == 0 for request in plan) / len(plan) == pytest.approx(0.75, abs=0.02)
    assert all(a.at <= b.at < 50.0 for a, b in itertools.pairwise(plan))
    assert plan == poisson(200.0, 50.0, [3.0, 1.0], seed=1)


def test_zipf_weights_fall_with_the_rank():
    assert zipf(4) == [1, 1 / 2, 1 / 3, 1 / 4]


def test_a_message_says_its_length():
    sent = message("http://127.0.0.1:80/v2/models/m/infer", b"{}")
    assert sent.startswith(b"POST /v2/models/m/infer HTTP/1.1\r\nhost: 127.0.0.1:80\r\n")
    assert sent.endswith(b"content-length: 2\r\n\r\n{}")


def test_latency_counts_from_when_a_request_was_due():
    results = [Result(Request(i / 10, 0), i / 10 + 0.02, 200, b"") for i in range(10)]
    load = judged(results, right, 1.0)
    assert (load.rate, load.p50, load.p99, load.answers) == pytest.approx((10.0, 20.0, 20.0, 10))


def test_a_server_that_lags_behind_is_not_credited_with_the_rate_that_was_offered():
    assert judged([Result(Request(0.0, 0), 4.0, 200), Result(Request(0.5, 0), 1.0, 200)], right, 1.0).rate == 0.5


@pytest.mark.parametrize("results", [[], [Result(Request(0.0, 0), 1.0, 500, b"no")], [Result(Request(0.0, 0))]])
def test_wrong_and_absent_answers_do_not_count(results):
    with pytest.raises(LoadFailed):
        judged(results, right, 1.0)


def test_a_phase_counts_the_changes_of_variant_that_clients_saw():
    results = [Result(Request(0.0, 0), at, 200) for at in (0.01, 0.02, 0.03)] + [Result(Request(0.0, 0))]
    found = phase(results, 1, ["a"] * 20 + ["b", "a"] + ["b"] * 20 + ["a"] * 10)
    assert (found.requests, found.failed, found.changes, found.p50) == (4, 1, 2, 20.0)
    assert found.worst == pytest.approx(30.0)


def test_an_answer_names_its_variant():
    assert variant_of(Result(Request(0, 0), body=b'{"parameters": {"variant": "int8"}}')) == "int8"
    assert variant_of(Result(Request(0, 0), body=b"")) == ""


def test_the_numbers_of_an_answer_are_found_as_the_server_writes_them():
    assert numbers('{"outputs": [{"shape": [1, 2], "data" : [1.0, 2.5]}]}') == "[1.0, 2.5]"
    with pytest.raises(ValueError, match="no numbers"):
        numbers("{}")
