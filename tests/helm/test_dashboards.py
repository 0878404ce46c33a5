"""Grafana's dashboards reach its sidecar as they are in the file, however many there are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from tests.helm.rendering import CHART, NAMESPACE, RELEASE

#: What Helm would evaluate, if it looked.
DASHBOARD = {"title": "Budgets", "panels": [{"legendFormat": "{{model}}", "expr": 'a{b="$ns"}\n{{ fail "read" }}'}]}


def rendered(folder: Path, names: list[str], values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The dashboard ConfigMaps of a copy of the chart that has these files, by name."""
    copy = folder / "trimtab"
    shutil.copytree(CHART, copy)
    shutil.rmtree(copy / "dashboards", ignore_errors=True)
    for name in names:
        (copy / "dashboards").mkdir(exist_ok=True)
        (copy / "dashboards" / name).write_text(json.dumps({**DASHBOARD, "uid": name}, indent=2))
    texts = helm_python.Chart.load(str(copy)).render(values, name=RELEASE, namespace=NAMESPACE)
    documents = [d for text in texts.values() if "grafana" in text for d in yaml.safe_load_all(text) if d]
    return {d["metadata"]["name"]: d for d in documents if d["kind"] == "ConfigMap"}


@pytest.mark.parametrize("names", [[], ["budgets.json"], ["budgets.json", "hosts.json", "models.json"]])
def test_every_file_becomes_a_config_map(names: list[str], tmp_path: Path) -> None:
    found = rendered(tmp_path, names, {"dashboards": {"enabled": True}})
    assert set(found) == {f"demo-trimtab-dashboard-{name.removesuffix('.json')}" for name in names}
    for document in found.values():
        assert document["metadata"]["labels"]["grafana_dashboard"] == "1"
        ((name, text),) = document["data"].items()
        assert json.loads(text) == {**DASHBOARD, "uid": name}


def test_other_sidecars_look_for_other_labels(tmp_path: Path) -> None:
    values = {
        "enabled": True,
        "namespace": "monitoring",
        "labels": {"grafana_dashboard": "yes"},
        "annotations": {"grafana_folder": "ml"},
    }
    (document,) = rendered(tmp_path, ["budgets.json"], {"dashboards": values}).values()
    assert document["metadata"]["namespace"] == "monitoring"
    assert document["metadata"]["labels"]["grafana_dashboard"] == "yes"
    assert document["metadata"]["annotations"] == {"grafana_folder": "ml"}


def test_they_are_off_by_default(tmp_path: Path) -> None:
    assert rendered(tmp_path, ["budgets.json"], {}) == {}


def test_the_charts_own_fit_into_config_maps() -> None:
    for path in (CHART / "dashboards").glob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))
        assert path.stat().st_size < 1_000_000, "a ConfigMap holds at most 1 MiB"
