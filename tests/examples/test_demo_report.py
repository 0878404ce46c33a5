from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from examples.demo import measure, report, words
from examples.demo.record import Failure, Gauge, Moment, Recording

Change = Callable[..., Recording]
MIB = 2**20


def failed(recording: Recording) -> set[str]:
    return {check["name"] for check in report.make(recording)["checks"] if not check["passed"]}


def test_a_good_run_passes_every_check(recording: Recording) -> None:
    assert failed(recording) == set()


def test_the_report_has_the_promised_fields_and_is_json(recording: Recording) -> None:
    made = json.loads(json.dumps(report.make(recording), allow_nan=False))
    assert made["requests"]["total"] == 4000
    assert made["requests"]["failed"] == 0
    assert made["models"] == ["big", "small"]
    assert [phase["name"] for phase in made["phases"]] == ["memory", "latency"]
    for phase in made["phases"]:
        for key in ("pressure_peak", "relief_seconds", "quality_before", "quality_during", "quality_after"):
            assert isinstance(phase[key], float)
        for key in ("before", "during", "after"):
            assert phase[f"p99_{key}_seconds"] > 0
        keys = {"model", "from", "to", "mode", "seconds", "bytes_planned", "bytes_measured", "outcome"}
        assert all(keys <= set(swap) for swap in phase["swaps"])


def test_numbers_of_a_phase(recording: Recording) -> None:
    memory, latency = report.make(recording)["phases"]
    assert memory["pressure_peak"] == pytest.approx(0.95)
    assert memory["relief_seconds"] == pytest.approx(4.0)
    assert memory["quality_before"] == pytest.approx(0.9)
    assert memory["quality_during"] == pytest.approx((3 * 0.8 + 0.9) / 4)
    assert memory["quality_after"] == pytest.approx(0.9)
    assert [(s["direction"], s["from"], s["to"]) for s in memory["swaps"]] == [
        ("degrade", "fp32", "int8"),
        ("restore", "int8", "fp32"),
    ]
    assert memory["swaps"][0]["bytes_planned"] == 120 * MIB
    assert memory["swaps"][0]["bytes_measured"] == 110 * MIB
    assert memory["swaps"][0]["mode"] == "break_before_make"  # what the host did, not what was planned
    assert latency["p99_before_seconds"] == pytest.approx(0.02)
    assert latency["p99_during_seconds"] == pytest.approx(0.3)
    assert latency["p99_relieved_seconds"] == pytest.approx(0.02)
    assert latency["relief_seconds"] == pytest.approx(6.0)


def test_bytes_are_summed_over_hosts(recording: Recording, change: Change) -> None:
    decisions = list(recording.decisions)
    decisions[1] = decisions[1].model_copy(update={"outcomes": decisions[1].outcomes * 2})
    swap = report.make(change(decisions=tuple(decisions)))["phases"][0]["swaps"][0]
    assert (swap["bytes_planned"], swap["bytes_measured"]) == (240 * MIB, 220 * MIB)


def test_one_failed_request_fails(recording: Recording, change: Change) -> None:
    noise = "\x1b[36mboom\x1b[0m\n  at once"
    one = change(answers=recording.answers[:-1], failures=(Failure(recording.answers[-1].due, "big", "http", noise),))
    assert failed(one) == {"no request failed"}
    assert report.make(one)["requests"]["errors"] == ["1 times big (http): boom at once"]


def test_a_request_without_any_outcome_counts_as_failed(recording: Recording, change: Change) -> None:
    assert failed(change(answers=recording.answers[:-1])) == {"no request failed"}


def test_too_few_requests_fail(recording: Recording, change: Change) -> None:
    assert "at least 3000 requests" in failed(change(sent=2999, answers=recording.answers[:2999]))


def test_a_missing_restore_fails(recording: Recording, change: Change) -> None:
    stuck = tuple(
        m
        if m.at < recording.phases[1].started + 20
        else m.model_copy(update={"variants": {"big": "int8", "small": "fp32"}})
        for m in recording.moments
    )
    assert failed(change(moments=stuck, decisions=recording.decisions[:6])) == {"latency: restored"}


def test_a_phase_without_degrading_fails(change: Change) -> None:
    assert {"memory: degraded", "memory: restored"} <= failed(change(decisions=()))
    assert "at least 70% of the planned bytes were measured" in failed(change(decisions=()))


def test_a_phase_that_did_not_take_place_fails(recording: Recording, change: Change) -> None:
    assert "latency: the phase took place" in failed(change(phases=recording.phases[:1]))


def test_a_problem_fails(change: Change) -> None:
    assert failed(change(problems=("memory pressure: nothing degraded",))) == {"every turn happened"}


def test_bytes_that_did_not_come_back_fail(recording: Recording, change: Change) -> None:
    little = tuple(
        d.model_copy(update={"outcomes": tuple(r.model_copy(update={"bytes_measured": 80 * MIB}) for r in d.outcomes)})
        for d in recording.decisions
    )
    assert failed(change(decisions=little)) == {"at least 70% of the planned bytes were measured"}


def test_a_rolled_back_swap_fails(recording: Recording, change: Change) -> None:
    decisions = list(recording.decisions)
    outcome = decisions[1].outcomes[0].model_copy(update={"outcome": "rolled_back", "bytes_measured": 0})
    decisions[1] = decisions[1].model_copy(update={"outcomes": (outcome,)})
    names = failed(change(decisions=tuple(decisions)))
    assert {"every swap was carried out", "memory: degraded"} <= names


def test_a_swap_without_an_outcome_is_unknown_and_fails(recording: Recording, change: Change) -> None:
    lost = change(decisions=(recording.decisions[0], *recording.decisions[2:]))
    assert report.make(lost)["phases"][0]["swaps"][0]["outcome"] == "unknown"
    assert "every swap was carried out" in failed(lost)


def _ratio(moment: Moment, trigger: str, ratio: float) -> Moment:
    gauge = moment.gauges[trigger]
    limit = gauge.limit or 0.0
    changed = Gauge(ratio=ratio, usage=ratio * limit, limit=limit, state="scaling")
    return moment.model_copy(update={"gauges": {**moment.gauges, trigger: changed}})


def test_late_relief_fails(recording: Recording, change: Change) -> None:
    start = recording.started
    slow = tuple(_ratio(m, "ram", 0.95) if 20 <= m.at - start < 40 else m for m in recording.moments)
    phases = (recording.phases[0].model_copy(update={"eased": start + 45}), recording.phases[1])
    assert failed(change(moments=slow, phases=phases)) == {"memory: relieved within 15 s"}


def _calm(recording: Recording) -> tuple[Moment, ...]:
    """As if the latency trigger had never been entered."""
    calm = {"ratio": 0.6, "state": "calm"}
    return tuple(
        m.model_copy(update={"gauges": {**m.gauges, "slo:big": m.gauges["slo:big"].model_copy(update=calm)}})
        for m in recording.moments
    )


def test_relief_that_comes_ahead_of_the_trigger_passes(recording: Recording, change: Change) -> None:
    made = report.make(change(moments=_calm(recording)))
    latency = made["phases"][1]
    assert (latency["entered_at"], latency["foreseen_at"], latency["relief_seconds"]) == (None, 63.0, 0.0)
    assert all(check["passed"] for check in made["checks"])
    assert "ahead of the trigger" in words.markdown(made)


def test_what_was_degraded_for_another_reason_is_not_relief_ahead_of_an_objective(
    recording: Recording, change: Change
) -> None:
    moments = tuple(
        m.model_copy(update={"causes": dict.fromkeys(m.causes, "ram"), "gauges": {**m.gauges, "ram": _low(m)}})
        for m in _calm(recording)
    )
    memory, latency = report.make(change(moments=moments))["phases"]
    assert latency["foreseen_at"] is None
    assert memory["foreseen_at"] == 22.0
    other = tuple(m.model_copy(update={"causes": dict.fromkeys(m.causes, "slo:small")}) for m in moments)
    memory, latency = report.make(change(moments=other))["phases"]
    assert latency["foreseen_at"] is None
    assert memory["foreseen_at"] == 22.0, "whatever was degraded gives a budget memory"


def _low(moment: Moment) -> Gauge:
    return moment.gauges["ram"].model_copy(update={"ratio": 0.7, "state": "calm"})


def test_relief_by_other_models_than_the_late_one_passes(recording: Recording, change: Change) -> None:
    """Whichever cost least are degraded for an objective."""
    cheap = {"big": "fp32", "small": "int8"}
    moments = tuple(
        m.model_copy(update={"variants": cheap, "causes": {"small": "slo:big"}})
        if "slo:big" in m.causes.values()
        else m
        for m in _calm(recording)
    )
    latency = report.make(change(moments=moments))["phases"][1]
    assert (latency["foreseen_at"], latency["relief_seconds"]) == (63.0, 0.0)


def test_a_trigger_that_is_never_entered_with_nothing_done_fails(recording: Recording, change: Change) -> None:
    moments = tuple(m.model_copy(update={"variants": dict(recording.phases[1].variants)}) for m in _calm(recording))
    assert "latency: the trigger was entered, or foreseen" in failed(change(moments=moments))


def test_relief_after_the_trigger_was_not_foreseen(recording: Recording) -> None:
    assert [phase["foreseen_at"] for phase in report.make(recording)["phases"]] == [None, None]


def test_relief_must_last(recording: Recording, change: Change) -> None:
    start = recording.started
    dip = tuple(_ratio(m, "ram", 0.95) if 25 <= m.at - start < 28 else m for m in recording.moments)
    assert report.make(change(moments=dip))["phases"][0]["relief_seconds"] == pytest.approx(8.0)


def test_relief_by_the_end_of_the_pressure_does_not_count(recording: Recording, change: Change) -> None:
    start = recording.started
    never = tuple(_ratio(m, "ram", 0.95) if 20 <= m.at - start <= 35 else m for m in recording.moments)
    assert report.make(change(moments=never))["phases"][0]["relief_seconds"] is None


def test_p99_outside_the_objective_after_relief_fails(recording: Recording, change: Change) -> None:
    start = recording.started
    late = tuple(a._replace(seconds=0.2) if 66 <= a.due - start < 72 else a for a in recording.answers)
    assert failed(change(answers=late)) == {"latency: p99 back inside the objective under the same load"}


def test_p99_is_an_observed_value() -> None:
    assert measure.p99([]) is None
    assert measure.p99([0.5]) == 0.5
    assert measure.p99([i / 100 for i in range(100)]) == 0.99
    assert measure.p99([0.0] * 199 + [1.0]) == 0.0
    assert measure.p99([0.0] * 99 + [1.0]) == 1.0


def test_series_slides(recording: Recording) -> None:
    points = measure.series(recording.answers, "big", 5.0)
    by_second = {round(end - recording.started): value for end, value in points}
    assert by_second[50] == pytest.approx(0.02)
    assert by_second[62] == pytest.approx(0.3)
    assert by_second[75] == pytest.approx(0.02)
    assert all(math.isfinite(value) for value in by_second.values())


def test_a_recording_survives_disk(recording: Recording, tmp_path: Path) -> None:
    recording.save(tmp_path / "recording.json")
    assert Recording.read(tmp_path / "recording.json") == recording


def test_words_tell_what_failed(recording: Recording, change: Change) -> None:
    good: dict[str, Any] = report.make(recording)
    assert "**Passed**" in words.markdown(good)
    assert "| 120 MiB | 110 MiB |" in words.markdown(good)
    bad = report.make(change(answers=recording.answers[:-1], failures=(Failure(0.0, "big", "grpc", "a | b"),)))
    text = words.markdown(bad)
    assert "**FAILED**" in text
    assert "- 1 times big (grpc): a | b" in text


def test_words_of_a_run_cut_short(recording: Recording, change: Change) -> None:
    cut = change(
        moments=recording.moments[:10],
        decisions=(),
        phases=(recording.phases[0].model_copy(update={"eased": None}),),
        problems=("the server ended",),
    )
    text = words.markdown(report.make(cut))
    assert "relieved never" in text
    assert "the server ended" in text
