"""The committed dashboards: valid for Grafana, complete, and about series that exist."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from helm.dashboards.__main__ import dashboards, text
from tests.observability.foreign import FOREIGN
from tests.observability.panels import DASHBOARDS, FOLDER, QUERIES, RECORDED, TARGET_LABELS, Asked, panels

each = pytest.mark.parametrize("name", DASHBOARDS)
PROMTOOL = shutil.which("promtool")


def grafana() -> Any:
    """Grafana's schema. Its generator writes "any value" as an object with any properties, where a plain text or number
    is usual; there any value is taken."""
    schema = json.loads((RECORDED / "grafana-dashboard.schema.json").read_text(encoding="utf-8"))
    for kind, field in (("MatcherConfig", "options"), ("DynamicConfigValue", "value")):
        properties = schema["definitions"][kind]["properties"]
        assert properties[field]["additionalProperties"] == {}
        properties[field] = {}
    return schema


def test_files_are_what_the_code_makes() -> None:
    made = {name: text(dashboard) for name, dashboard in dashboards().items()}
    assert {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")} == made


@each
def test_grafana_would_take_it(name: str) -> None:
    jsonschema.Draft7Validator(grafana()).validate(DASHBOARDS[name])


def test_the_schema_would_notice() -> None:
    broken = json.loads(json.dumps(DASHBOARDS["budgets"]))
    panels(broken)[0]["fieldConfig"]["defaults"]["units"] = "s"
    assert not jsonschema.Draft7Validator(grafana()).is_valid(broken)


@each
def test_panels_are_whole(name: str) -> None:
    for panel in panels(DASHBOARDS[name]):
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        sources = [panel["datasource"], *(t["datasource"] for t in panel["targets"])]
        assert all(s == {"type": "prometheus", "uid": "${datasource}"} for s in sources), panel["title"]
    titles = [panel["title"] for panel in panels(DASHBOARDS[name])]
    assert len(titles) == len(set(titles))


@each
def test_panels_are_laid_out_without_overlap(name: str) -> None:
    everything = DASHBOARDS[name]["panels"]
    assert [p["id"] for p in everything] == list(range(1, len(everything) + 1))
    places = [p["gridPos"] for p in everything]
    assert all(p["x"] + p["w"] <= 24 for p in places)
    for a, b in itertools.combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        apart = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or apart, (a, b)


@each
def test_variables_and_links_between_dashboards(name: str) -> None:
    dashboard = DASHBOARDS[name]
    found = [v["name"] for v in dashboard["templating"]["list"]]
    assert found[:5] == ["datasource", "namespace", "group", "host", "model"]
    (link,) = dashboard["links"]
    assert (link["includeVars"], link["keepTime"]) == (True, True)
    assert set(link["tags"]) <= set(dashboard["tags"])
    known = {d["uid"] for d in DASHBOARDS.values()}
    for panel in panels(dashboard):
        for detail in panel["fieldConfig"]["defaults"].get("links", ()):
            assert detail["url"].split("?")[0].removeprefix("/d/") in known
            assert any("{{model}}" in t["legendFormat"] for t in panel["targets"]), panel["title"]


def test_details_are_reached_from_the_overview() -> None:
    urls = [
        link["url"]
        for panel in panels(DASHBOARDS["budgets"])
        for link in panel["fieldConfig"]["defaults"].get("links", ())
    ]
    assert any(url.startswith("/d/trimtab-models?") for url in urls)


@pytest.mark.parametrize("query", QUERIES, ids=lambda q: q.where)
def test_a_query_is_about_series_that_exist(query: Asked, exposed: Mapping[str, set[str]]) -> None:
    known = {**exposed, **FOREIGN}
    assert query.metrics, query.expr
    assert query.metrics <= set(known), f"nothing exposes {query.metrics - set(known)}"
    labels = set().union(*(known[m] for m in query.metrics))
    assert query.labels <= labels | TARGET_LABELS, f"{query.expr}: no label {query.labels - labels - TARGET_LABELS}"
    for metric in query.metrics & set(exposed):
        assert "namespace=~" in query.expr or query.where.endswith("variable namespace"), metric


def test_what_is_exposed_is_shown() -> None:
    """A metric that nobody sees is either shown or not worth exposing."""
    from budgets import exposition

    names = {v for k, v in vars(exposition).items() if k.isupper() and isinstance(v, str) and v.startswith("trimtab_")}
    shown = {m.removesuffix(s) for q in QUERIES for m in q.metrics for s in ("", "_bucket", "_sum", "_count")}
    only_for_models_that_pad = {exposition.PADDING, exposition.POSITIONS}
    assert names - shown == {exposition.TICK_DURATION} | only_for_models_that_pad


@pytest.mark.skipif(PROMTOOL is None, reason="promtool (Debian's package prometheus) is not installed")
def test_prometheus_can_parse_every_query(tmp_path: Path) -> None:
    rules = [{"record": f"q:{i}", "expr": query.filled()} for i, query in enumerate(QUERIES)]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}, width=10**9))
    done = subprocess.run([str(PROMTOOL), "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
