"""`python -m helm.dashboards`: write the chart's dashboards."""

from __future__ import annotations

import json
from pathlib import Path

from helm.dashboards import budgets, hosts, models
from helm.dashboards.parts import Json

FOLDER = Path(__file__).resolve().parent.parent / "trimtab" / "dashboards"


def dashboards() -> dict[str, Json]:
    """Every dashboard by its file's name."""
    return {"budgets.json": budgets.made(), "models.json": models.made(), "hosts.json": hosts.made()}


def text(dashboard: Json) -> str:
    """As it is written to disk."""
    return json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Write all of them, and take away what is none."""
    FOLDER.mkdir(exist_ok=True)
    for stale in FOLDER.glob("*.json"):
        stale.unlink()
    for name, dashboard in dashboards().items():
        (FOLDER / name).write_text(text(dashboard), encoding="utf-8")


if __name__ == "__main__":
    main()
