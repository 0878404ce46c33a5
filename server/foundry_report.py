"""`trimtab report`: all models' ladders as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from server.cli_views import size
from server.foundry_views import duration
from variants.catalog import Catalog, Entry, Variant
from variants.figure import draw
from variants.pareto import Row, table

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1c2321 }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #dde3e1; vertical-align: top }
tr.off { color: #68726f } img { max-width: 100% } code { font-size: .85em; overflow-wrap: anywhere }
.short { white-space: nowrap } details td { font-size: .9em } summary { cursor: pointer }
@media (prefers-color-scheme: dark) { body { background: #15191a; color: #dfe6e4 } th, td { border-color: #333d3b }
  img { background: #fff } }
"""
#: A list of more entries than these is cut short.
LONG = 6
HEAD = ("rung", "variant", "engine", "quality (95 %)", "resident", "batch of 1", "per second", "load")


def page(catalog: Catalog, names: Collection[str]) -> str:
    """The page for these models of a catalog."""
    sections = [_section(entry, catalog.device) for name, entry in catalog.entries.items() if name in names]
    refused = [r for r in catalog.refused if r.model in names]
    notes = "".join(f"<li><code>{escape(r.path)}</code>: {escape(r.reason)}</li>" for r in refused)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>trimtab ladders</title>"
        f"<meta name='viewport' content='width=device-width'><style>{STYLE}</style></head><body><h1>Ladders</h1>"
        f"<p>Measured on {escape(catalog.device)}.</p>{''.join(sections)}"
        + (f"<h2>Refused</h2><ul>{notes}</ul>" if notes else "")
        + "</body></html>"
    )


def _section(entry: Entry, device: str) -> str:
    rows = table(entry, device)
    head = "".join(f"<th>{h}</th>" for h in HEAD)
    body = "".join(_row(r) for r in rows)
    made = "".join(_lineage(v) for v in entry.variants.values())
    return (
        f"<h2>{escape(entry.model.name)}</h2><p>{escape(entry.model.task)}; quality by {entry.model.metric}.</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{_picture(entry.model.name, rows)}"
        f"<details><summary>How each variant was made</summary><table>{made}</table></details>"
    )


def _row(row: Row) -> str:
    if row.quality is None:
        cells = ["not profiled", row.variant, row.engine, "", "", "", "", ""]
    else:
        bounds = "" if row.quality_low is None else f" ({row.quality_low:.4f} to {row.quality_high:.4f})"
        cells = [
            "–" if row.rung is None else str(row.rung),
            row.variant,
            row.engine,
            f"{row.quality:.4f}{bounds}",
            size(row.resident_bytes),
            duration(row.p50_seconds),
            f"{row.throughput:.0f}",
            duration(row.load_seconds),
        ]
    kind = " class='off'" if row.rung is None else ""
    return f"<tr{kind}>" + "".join(f"<td>{escape(c)}</td>" for c in cells) + "</tr>"


def _picture(model: str, rows: Sequence[Row]) -> str:
    if all(r.quality is None for r in rows):
        return ""
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "ladder.png"
        draw(model, rows, target)
        data = base64.b64encode(target.read_bytes()).decode()
    return f"<img alt='{escape(model)}: quality against size and latency' src='data:image/png;base64,{data}'>"


def _lineage(variant: Variant) -> str:
    made = variant.lineage
    hidden = ("requested", "parent_sha256", "module_sha256")
    used = ", ".join(f"{k} = {_short(v)}" for k, v in made.parameters.items() if k not in hidden)
    libraries = ", ".join(f"{k} {v}" for k, v in made.libraries.items())
    short = (variant.name, f"{made.technique} of {made.parent or 'the source'}", f"{made.samples} samples")
    cells = "".join(f"<td class='short'>{escape(c)}</td>" for c in short)
    return f"<tr>{cells}<td><code>{escape(used)}</code></td><td>{escape(libraries)}</td></tr>"


def _short(value: Any) -> str:
    """A parameter's value; of a long list or mapping its first entries and how many there are."""
    if isinstance(value, (list, tuple, Mapping)) and len(value) > LONG:
        entries = [f"{k}: {v}" for k, v in value.items()] if isinstance(value, Mapping) else [str(v) for v in value]
        return f"{', '.join(entries[:2])}, … ({len(value)})"
    return str(value)
