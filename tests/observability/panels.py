"""The committed dashboards taken apart: panels, queries, and what they refer to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "helm" / "trimtab" / "dashboards"
RECORDED = Path(__file__).parent / "recorded"
DASHBOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))
}
#: What Prometheus or its operator puts on every series; and the host group, which series of the default one do not have.
TARGET_LABELS = {"namespace", "instance", "le", "host_group"}
_SELECTOR = re.compile(r"\b((?:trimtab|ray|DCGM)_\w+)\s*(?:\{([^}]*)\})?")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_GROUPING = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)")


@dataclass(frozen=True)
class Asked:
    """One query of a dashboard."""

    where: str
    expr: str
    legend: str

    @property
    def metrics(self) -> set[str]:
        return {name for name, _ in _SELECTOR.findall(self.expr)}

    @property
    def labels(self) -> set[str]:
        """Every label that the query selects, groups or joins by, or names in its legend."""
        grouped = {g.strip() for group in _GROUPING.findall(self.expr) for g in group.split(",")} - {""}
        matched = {label for _, inside in _SELECTOR.findall(self.expr) for label in _MATCHER.findall(inside)}
        return grouped | matched | set(re.findall(r"\{\{(\w+)\}\}", self.legend))

    def filled(self, **variables: str) -> str:
        """The query with Grafana's variables replaced; those not given are `All`."""
        values = {"__rate_interval": "30s", **variables}
        named = r"\$(?:\{(\w+)(?::\w+)?\}|([a-zA-Z_]\w*))"
        return re.sub(named, lambda m: values.get(m.group(1) or m.group(2), ".*"), self.expr)


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def asked() -> Iterator[Asked]:
    """Every query of every panel, annotation and variable."""
    for name, dashboard in DASHBOARDS.items():
        for panel in panels(dashboard):
            for target in panel["targets"]:
                legend = "" if target["legendFormat"] == "__auto" else target["legendFormat"]
                yield Asked(f"{name}/{panel['title']}/{target['refId']}", target["expr"], legend)
        for note in dashboard["annotations"]["list"]:
            yield Asked(f"{name}/annotation {note['name']}", note["expr"], note["titleFormat"] + note["textFormat"])
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                where = f"{name}/variable {variable['name']}"
                if (found := re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"])) is not None:
                    yield Asked(where, f"count by ({found[2]}) ({found[1]})", "")
                else:
                    yield Asked(where, variable["query"].removeprefix("query_result(").removesuffix(")"), "")


QUERIES = list(asked())
