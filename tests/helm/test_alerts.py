"""Each alert fires when it should, stays quiet on a healthy server, and has a runbook; judged by promtool."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from budgets import exposition
from tests.helm.rendering import CHART, VALUE_SETS, one

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool (Debian's package prometheus) is not installed")
VALUES = VALUE_SETS["cpu-single-node"]
JOB = 'job="ml/demo-trimtab"'
SECONDS = 15  # between samples
#: A server at ease for 12 hours: what each alert must stay quiet on, and what the cases below disturb.
HEALTHY = {
    f'trimtab_pressure{{{JOB}, budget="ram"}}': "0.4+0x2880",
    f'trimtab_pressure{{{JOB}, budget="slo:m"}}': "0.5+0x2880",
    f'trimtab_trigger_state{{{JOB}, budget="ram"}}': "0+0x2880",
    f'trimtab_trigger_state{{{JOB}, budget="slo:m"}}': "0+0x2880",
    f'trimtab_plan_infeasible{{{JOB}, budget="ram"}}': "0+0x2880",
    f'trimtab_source_age_seconds{{{JOB}, budget="ram"}}': "1+0x2880",
    f"trimtab_last_tick_timestamp_seconds{{{JOB}}}": "0+15x2880",
    f'trimtab_process_memory_bytes{{{JOB}, role="host", pid="7"}}': "1000+0x2880",
    f'trimtab_ticks_total{{{JOB}, pod="p", endpoint="trimtab-0", outcome="steady"}}': "0+15x2880",
    f'trimtab_tick_duration_seconds_count{{{JOB}, pod="p", endpoint="trimtab-0"}}': "0+15x2880",
    f'trimtab_swaps_total{{{JOB}, model="m", direction="degrade", outcome="done"}}': "3+0x2880",
    f'trimtab_requests_total{{{JOB}, model="m", variant="fp32", code="ok", protocol="http"}}': "0+1500x2880",
    f'trimtab_requests_total{{{JOB}, model="m", variant="fp32", code="InvalidInput", protocol="http"}}': "0+500x2880",
}
PRESSURE, INFEASIBLE, AGE, LAST_TICK, PROCESS, TICKS, RAN, REQUESTS = (
    key
    for part in (
        "pressure{",
        "infeasible",
        "source_age",
        "last_tick",
        'role="host"',
        "ticks_total",
        "tick_duration",
        'code="ok"',
    )
    for key in HEALTHY
    if part in key and "slo" not in key
)
STATE = f'trimtab_trigger_state{{{JOB}, budget="ram"}}'
LATE = f'trimtab_pressure{{{JOB}, budget="slo:m"}}'
SWAPPED = f'trimtab_swaps_total{{{JOB}, model="m", direction="degrade", outcome="done"}}'


@dataclass(frozen=True)
class Case:
    """At `at` exactly `fires` are there, of the alerts for which `labels` are given, when `series` replace or join the
    healthy ones (None: the series is gone)."""

    name: str
    at: str
    series: dict[str, str | None]
    fires: dict[str, dict[str, str]] = field(default_factory=dict)


RAM = {"budget": "ram"}
SMALL = {"host_group": "small"}


def of_small(series: str) -> str:
    """The same series of another host group."""
    return series.replace(JOB, f'{JOB}, host_group="small"')


CASES = [
    Case("at ease", "7h", {}),
    Case("saturated and degrading", "60m", {STATE: "0+0x100 2+0x2780"}, {"TrimtabBudgetSaturated": RAM}),
    Case("nothing left to degrade", "60m", {INFEASIBLE: "0+0x100 1+0x2780"}, {"TrimtabNoFeasiblePlan": RAM}),
    Case("nothing to degrade while models cool down", "60m", {INFEASIBLE: "0+0x100" + " 1+0x2 0+0x0" * 600}),
    Case("saturated for a moment", "25m30s", {STATE: "0+0x100 2+0x2 0+0x2780"}),
    Case("pressure rises", "24m", {PRESSURE: "0.4+0.005x110 0.95+0x2770"}, {"TrimtabExhaustionPredicted": RAM}),
    Case("pressure rises slowly", "20m", {PRESSURE: "0.4+0.0001x2880"}),
    Case(
        "late for half an hour",
        "3h",
        {LATE: "0.5+0x600 1.4+0x2280"},
        {"TrimtabSloBurningFast": {"budget": "slo:m"}, "TrimtabSloBurningSlowly": {"budget": "slo:m"}},
    ),
    Case("late for a minute", "3h", {LATE: "0.5+0x700 1.4+0x4 0.5+0x2280"}),
    Case(
        "queue full",
        "30m",
        {REQUESTS.replace('"ok"', '"QueueFull"'): "0+60x2880"},
        {"TrimtabRequestsFailing": {"model": "m"}},
    ),
    Case("clients go away", "30m", {REQUESTS.replace('"ok"', '"Cancelled"'): "0+900x2880"}),
    Case(
        "a first swap is rolled back",
        "31m",
        {SWAPPED.replace("done", "rolled_back"): "_x120 1+0x2700"},
        {"TrimtabSwapFailed": {"model": "m"}},
    ),
    Case(
        "a further swap fails",
        "31m",
        {SWAPPED.replace("done", "failed"): "4+0x120 5+0x2700"},
        {"TrimtabSwapFailed": {"model": "m"}},
    ),
    Case("a swap was rolled back long ago", "2h", {SWAPPED.replace("done", "rolled_back"): "_x120 1+0x2700"}),
    Case(
        "a variant is quarantined",
        "40m",
        {f'trimtab_quarantined{{{JOB}, model="m", variant="int8"}}': "_x120 1+0x400"},
        {"TrimtabVariantQuarantined": {"model": "m", "variant": "int8"}},
    ),
    Case("a quarantine is over", "40m", {f'trimtab_quarantined{{{JOB}, model="m", variant="int8"}}': "_x120 1+0x30 stale"}),
    Case(
        "a host group is saturated",
        "60m",
        {of_small(STATE): "0+0x100 2+0x2780"},
        {"TrimtabBudgetSaturated": {**RAM, **SMALL}, "TrimtabSourceStale": {**RAM, **SMALL}},
    ),
    Case(
        "a host group is measured and at ease",
        "60m",
        {of_small(key): HEALTHY[key] for key in (STATE, PRESSURE, INFEASIBLE, AGE, LAST_TICK)},
    ),
    Case("a host group is not planned", "40m", {of_small(LAST_TICK): "0+15x100 1500+0x2780"}, {"TrimtabControllerNotTicking": SMALL}),
    Case("ticks stand still", "40m", {LAST_TICK: "0+15x100 1500+0x2780"}, {"TrimtabControllerNotTicking": {}}),
    Case(
        "nothing is scraped",
        "40m",
        dict.fromkeys(HEALTHY),
        {"TrimtabControllerNotTicking": {"job": "ml/demo-trimtab"}},
    ),
    Case(
        "ticks fail",
        "40m",
        {TICKS.replace("steady", "error"): "0+5x2880"},
        {"TrimtabControllerFailing": {}},
    ),
    Case("readings are old", "40m", {AGE: "1+0x100 1+15x2780"}, {"TrimtabSourceStale": RAM}),
    Case("a pressure is missing", "40m", {PRESSURE: "0.4+0x80 stale"}, {"TrimtabSourceStale": RAM}),
    Case(
        "the controller starts over and over",
        "30m",
        {RAN: " ".join(["0+15x20"] * 137)},
        {"TrimtabRestartLoop": {}},
    ),
    Case(
        "hosts die over and over",
        "60m",
        {PROCESS: "1+0x200 stale", **{PROCESS.replace('"7"', f'"{9 + i}"'): f"_x{200 + 10 * i} 1+0x9 stale" for i in range(4)}},
        {"TrimtabRestartLoop": {}},
    ),
    Case("hosts are scaled up", "60m", {PROCESS.replace('"7"', f'"{9 + i}"'): "_x200 1+0x2680" for i in range(4)}),
    Case("the controller starts once, on another port", "30m", {RAN: "0+15x80 stale", RAN.replace("-0", "-1"): "_x82 0+15x2780"}),
]  # fmt: skip


def rules() -> list[dict[str, Any]]:
    (group,) = one(VALUES, "PrometheusRule")["spec"]["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def promtool(*arguments: str) -> str:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
@pytest.mark.parametrize("name", [n for n, v in VALUE_SETS.items() if v.get("prometheusRule")])
def test_rules_are_valid(name: str, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(one(VALUE_SETS[name], "PrometheusRule")["spec"]))
    assert "SUCCESS" in promtool("check", "rules", "--lint=all", "--lint-fatal", str(file))


@needs_promtool
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_alerts_fire_when_they_should_and_only_then(case: Case, tmp_path: Path) -> None:
    """Annotations are left out of the comparison: they are prose around the labels that are compared."""
    plain = [{k: v for k, v in rule.items() if k != "annotations"} for rule in rules()]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "g", "interval": "30s", "rules": plain}]}))
    series = {key: value for key, value in {**HEALTHY, **case.series}.items() if value is not None}
    expected = [
        {
            "eval_time": case.at,
            "alertname": rule["alert"],
            "exp_alerts": [{"exp_labels": {**rule["labels"], **case.fires[rule["alert"]]}}]
            if rule["alert"] in case.fires
            else [],
        }
        for rule in plain
    ]
    test = {
        "interval": f"{SECONDS}s",
        "input_series": [{"series": key, "values": value} for key, value in series.items()],
        "alert_rule_test": expected,
    }
    file = tmp_path / "test.yaml"
    file.write_text(
        yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "30s", "tests": [test]}, width=10**9)
    )
    promtool("test", "rules", str(file))


def test_every_alert_is_seen_firing() -> None:
    assert {rule["alert"] for rule in rules()} == {name for case in CASES for name in case.fires}


def test_alerts_use_only_series_that_trimtab_exposes() -> None:
    exposed = {v for k, v in vars(exposition).items() if k.isupper() and isinstance(v, str)}
    for rule in rules():
        for name in re.findall(r"\btrimtab_\w+", rule["expr"]):
            base = re.sub(r"_(bucket|count|sum)$", "", name)
            assert name in exposed or base in exposed, f"{rule['alert']}: {name}"


def test_every_alert_has_a_runbook_and_says_what_is_the_matter() -> None:
    runbook = (CHART / "RUNBOOK.md").read_text(encoding="utf-8")
    sections = set(re.findall(r"^## (\w+)$", runbook, re.MULTILINE))
    assert sections == {rule["alert"] for rule in rules()}
    for rule in rules():
        notes = rule["annotations"]
        assert notes["runbook_url"] == f"https://runbooks.example.org/trimtab#{rule['alert'].lower()}"
        assert notes["summary"]
        assert notes["description"]
        assert ("host_group" in rule["expr"]) == ("host_group" in notes["summary"])
        assert rule["labels"]["severity"] in ("critical", "warning")


def test_the_age_that_counts_as_stale_is_the_configured_one() -> None:
    (group,) = one(VALUE_SETS["secured"], "PrometheusRule")["spec"]["groups"]
    (expression,) = [r["expr"] for r in group["rules"] if r["alert"] == "TrimtabSourceStale"]
    assert "> 30 or" in expression
