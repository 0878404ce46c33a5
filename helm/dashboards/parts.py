"""What the dashboards are put together from: panels as Grafana's dashboard model has them, laid out in rows.

The JSON is checked against Grafana's own schema by tests/observability. Selectors hold Grafana's variables; each of them
may be `All`, which is `.*` and so also takes series without that label (a Prometheus that is not in a cluster).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from budgets import exposition as names
from budgets.config import DEFAULT_GROUP

Json = dict[str, Any]
WIDTH = 24
SOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
TAG = "trimtab"

#: Series of others; of trimtab, which carry their host group where it is not the default one; of a host; of one of a host's
#: models. `raw`: the group's value is a regular expression (see `group_variable`).
NAMESPACE = 'namespace=~"$namespace"'
CONTROL = f'{NAMESPACE}, {names.GROUP}=~"${{group:raw}}"'
HOST = f'{CONTROL}, instance=~"$host"'
MODEL = f'{HOST}, model=~"$model"'

GREEN, YELLOW, ORANGE, RED, BLUE, GREY = "green", "yellow", "orange", "red", "blue", "text"


@dataclass(frozen=True)
class Query:
    """One PromQL query of a panel. `legend` is Grafana's template over labels. `instant`: only the newest value, as a
    row of a table. `exemplars`: also the traces that are stored with it."""

    expr: str
    legend: str = ""
    instant: bool = False
    exemplars: bool = False

    def target(self, ref: str) -> Json:
        """As an item of a panel's `targets`."""
        shape: Json = {"instant": True, "range": False, "format": "table"} if self.instant else {"range": True}
        return {
            "refId": ref,
            "datasource": SOURCE,
            "editorMode": "code",
            "expr": self.expr,
            "legendFormat": self.legend or "__auto",
            "exemplar": self.exemplars,
            **shape,
        }


@dataclass(frozen=True)
class Panel:
    """A panel; `unit` is Grafana's id. `links`: title -> url, offered on each series. `extra`: what only this one has."""

    kind: str
    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str = "short"
    width: int = 8
    height: int = 8
    options: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    custom: Mapping[str, Any] = field(default_factory=dict)
    overrides: tuple[Json, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def json(self, number: int, x: int, y: int) -> Json:
        """As Grafana has it, at a place of the grid."""
        defaults = {"unit": self.unit, **self.defaults, "custom": dict(self.custom)}
        if self.links:
            defaults["links"] = [_link(title, url) for title, url in self.links.items()]
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": SOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "fieldConfig": {"defaults": defaults, "overrides": list(self.overrides)},
            "options": dict(self.options),
            "targets": [query.target(chr(ord("A") + i)) for i, query in enumerate(self.queries)],
            **self.extra,
        }


def lines(title: str, description: str, *queries: Query, unit: str = "short", **more: Any) -> Panel:
    """Values over time, from 0 unless `defaults` say `min=None`. `stack=True` piles them up."""
    stack = more.pop("stack", False)
    custom: Json = {"lineWidth": 1, "fillOpacity": 60 if stack else 8, "showPoints": "never"}
    custom |= {"stacking": {"mode": "normal", "group": "A"}} if stack else {}
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    defaults = {"min": 0, **more.pop("defaults", {})}
    if defaults["min"] is None:
        del defaults["min"]
    return Panel(
        "timeseries", title, description, queries, unit, options=options, custom=custom, defaults=defaults, **more
    )


def stat(
    title: str, description: str, query: Query, *, unit: str = "short", steps: Mapping[float, str], **more: Any
) -> Panel:
    """One number, coloured by the highest of `steps` that it reaches; below all of them it is green."""
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "background",
        "graphMode": "none",
        "textMode": "auto",
    }
    defaults = {"thresholds": thresholds(steps), **more.pop("defaults", {})}
    width = more.pop("width", 4)
    return Panel("stat", title, description, (query,), unit, width, 4, options=options, defaults=defaults, **more)


def states(title: str, description: str, query: Query, values: Mapping[int, tuple[str, str]], **more: Any) -> Panel:
    """A state timeline: one row for each series, `values` name and colour its states."""
    options = {
        "mergeValues": True,
        "showValue": "auto",
        "alignValue": "left",
        "rowHeight": 0.85,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    mapping = {
        str(v): {"text": text, "color": colour, "index": i} for i, (v, (text, colour)) in enumerate(values.items())
    }
    defaults = {"mappings": [{"type": "value", "options": mapping}], "color": {"mode": "thresholds"}}
    custom = {"lineWidth": 0, "fillOpacity": 75}
    return Panel(
        "state-timeline", title, description, (query,), options=options, defaults=defaults, custom=custom, **more
    )


def table(
    title: str, description: str, *queries: Query, columns: Mapping[str, str], unit: str = "short", **more: Any
) -> Panel:
    """The newest values as rows; `columns`: label, or `Value #A`, -> heading. What it does not name is left out."""
    transformations: list[Json] = [
        {"id": "merge", "options": {}},
        {"id": "filterFieldsByName", "options": {"include": {"names": list(columns)}}},
        {
            "id": "organize",
            "options": {"indexByName": {name: i for i, name in enumerate(columns)}, "renameByName": dict(columns)},
        },
    ]
    instant = tuple(replace(query, instant=True) for query in queries)
    options = {"showHeader": True, "cellHeight": "sm"}
    extra = {"transformations": transformations}
    return Panel("table", title, description, instant, unit, options=options, extra=extra, **more)


def thresholds(steps: Mapping[float, str]) -> Json:
    """Colours from these values on; green below."""
    return {
        "mode": "absolute",
        "steps": [{"value": None, "color": GREEN}, *({"value": v, "color": c} for v, c in sorted(steps.items()))],
    }


def styled(pattern: str, **properties: Any) -> Json:
    """An override for the series whose name matches; `dash=True` and `color=...` are what lines that are limits get."""
    made: list[Json] = []
    if properties.pop("dash", False):
        made.append({"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 8]}})
        made.append({"id": "custom.fillOpacity", "value": 0})
    if colour := properties.pop("color", ""):
        made.append({"id": "color", "value": {"mode": "fixed", "fixedColor": colour}})
    made += [{"id": key, "value": value} for key, value in properties.items()]
    return {"matcher": {"id": "byRegexp", "options": f"/{pattern}/"}, "properties": made}


def _link(title: str, url: str) -> Json:
    return {
        "title": title, "type": "link", "icon": "", "tooltip": "", "url": url, "tags": [], "asDropdown": False,
        "targetBlank": False, "includeVars": True, "keepTime": True,
    }  # fmt: skip


def to_model(uid: str = "trimtab-models") -> dict[str, str]:
    """A link from a series of a model to that model's page."""
    kept = "&".join(f"${{{name}:queryparam}}" for name in ("datasource", "namespace", "group"))
    return {"This model": f"/d/{uid}?{kept}&var-model=${{__field.labels.model}}&${{__url_time_range}}"}


def variables(*more: Json) -> list[Json]:
    """$datasource, $namespace, $group, $host and $model, and what else a dashboard has."""
    source = {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus", "refresh": 1}
    return [
        source,
        variable("namespace", "Namespace", f"{names.TICKS}", "namespace"),
        group_variable(),
        variable("host", "Host", f"{names.QUEUE_DEPTH}{{{CONTROL}}}", "instance"),
        variable("model", "Model", f"{names.QUEUE_DEPTH}{{{HOST}}}", "model"),
        *more,
    ]


def variable(name: str, label: str, series: str, values_of: str) -> Json:
    """A variable with the values of a label, several of which may be chosen."""
    query = f"label_values({series}, {values_of})"
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": SOURCE,
        "definition": query,
        "query": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def group_variable() -> Json:
    """$group, the host groups. Series of the default group have no label, so its value is what matches none: `()`."""
    expr = f"count by ({names.GROUP}) ({names.TICKS}{{{NAMESPACE}}})"
    for label, of_default in (("text", DEFAULT_GROUP), ("value", "()")):
        for value, matches in ((of_default, ""), ("$1", "(.+)")):
            expr = f'label_replace({expr}, "{label}", "{value}", "{names.GROUP}", "{matches}")'
    return {
        **variable("group", "Host group", "", ""),
        "definition": f"query_result({expr})",
        "query": f"query_result({expr})",
        "regex": '/text="(?<text>[^"]*)".*value="(?<value>[^"]*)"/',
        "multi": False,
        "current": {"selected": True, "text": "All", "value": "$__all"},
    }


def decisions() -> Json:
    """Planned swaps as annotations, each at the time of its decision."""
    labels = f"model, direction, from_variant, to_variant, trigger, {names.GROUP}"
    return {
        "name": "Decisions",
        "type": "prometheus",
        "datasource": SOURCE,
        "enable": True,
        "hide": False,
        "iconColor": ORANGE,
        "expr": f"max by ({labels}) ({names.PLANNED_AT}{{{CONTROL}}}) * 1000",
        "useValueForTime": True,
        "titleFormat": "{{direction}} {{model}}",
        "textFormat": "{{from_variant}} → {{to_variant}}, because of {{trigger}} {{host_group}}",
        "tagKeys": "direction,model",
        "step": "10s",
    }


Row = tuple[str, Sequence[Panel]]


def dashboard(uid: str, title: str, description: str, rows: Iterable[Row], *more_variables: Json) -> Json:
    """A whole dashboard. Panels fill each row's width from the left, and go on in the next line."""
    panels: list[Json] = []
    y = 0
    for heading, members in rows:
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": heading,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
            }
        )
        x, y, tallest = 0, y + 1, 0
        for panel in members:
            if x + panel.width > WIDTH:
                x, y, tallest = 0, y + tallest, 0
            panels.append(panel.json(len(panels) + 1, x, y))
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": [TAG],
        "schemaVersion": 41,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "timezone": "browser",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": variables(*more_variables)},
        "annotations": {"list": [decisions()]},
        "links": [
            {
                "title": "trimtab", "type": "dashboards", "icon": "external link", "tooltip": "", "tags": [TAG],
                "asDropdown": False, "targetBlank": False, "includeVars": True, "keepTime": True,
            }
        ],
        "panels": panels,
    }  # fmt: skip
