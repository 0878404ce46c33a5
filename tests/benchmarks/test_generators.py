"""What is read from the load generators, and what is not taken for a right run."""

import json

import pytest

from benchmarks.generators import LoadFailed, read_h2load, read_wrk

TOLD = {"requests": 30_000, "microseconds": 2_000_000, "wrong": 0, "errors": 0, "p50": 800, "p99": 2_500}
H2LOAD = """finished in 2.00s, 1500.00 req/s, 1.27MB/s
requests: 4 total, 4 started, 4 done, 4 succeeded, 0 failed, 0 errored, 0 timeout
traffic: 1.00KB (1024) total, 100B (100) headers (space savings 90.00%), 340B ({data}) data
"""
LOG = "1\t200\t1000\n2\t200\t2000\n3\t200\t3000\n4\t200\t4000\n"


def wrk(**changes):
    return "Running 2s test @ http://127.0.0.1:1/\n" + json.dumps({**TOLD, **changes}) + "\n"


def test_wrk_output_is_read_in_seconds_and_milliseconds():
    load = read_wrk(wrk())
    assert (load.rate, load.p50, load.p99, load.answers) == (15_000.0, 0.8, 2.5, 30_000)


@pytest.mark.parametrize("changes", [{"wrong": 1}, {"errors": 1}, {"requests": 0}])
def test_a_wrk_run_with_wrong_answers_errors_or_nothing_does_not_count(changes):
    with pytest.raises(LoadFailed, match="wrk"):
        read_wrk(wrk(**changes))


def test_h2load_output_and_log_are_read():
    load = read_h2load(H2LOAD.format(data=340), LOG, size=85, concurrency=1)
    assert (load.rate, load.p50, load.answers) == (1500.0, 2.5, 4)
    assert load.p99 == pytest.approx(3.97)


def test_bytes_of_requests_under_way_at_the_end_may_be_missing():
    assert read_h2load(H2LOAD.format(data=255), LOG, size=85, concurrency=1).answers == 4


def test_grpc_errors_are_found_by_the_bytes_that_are_missing():
    with pytest.raises(LoadFailed, match="170 bytes are missing"):
        read_h2load(H2LOAD.format(data=170), LOG, size=85, concurrency=1)


def test_another_status_than_200_does_not_count():
    with pytest.raises(LoadFailed, match="1 were not 200"):
        read_h2load(H2LOAD.format(data=340), LOG.replace("3\t200", "3\t503"), size=85, concurrency=1)


def test_output_of_another_form_is_said_to_be_one():
    with pytest.raises(LoadFailed, match="something else than expected"):
        read_h2load("h2load: unknown option", LOG, size=85, concurrency=1)
