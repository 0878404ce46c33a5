"""`trimtab rerun`: the decisions of a journal made again from what they were made on, and compared byte for byte."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from variants.errors import ConfigError

out = Console(highlight=False)


def rerun(
    journal: Annotated[Path, typer.Argument(help="A journal file (state/journal.jsonl, or a rotated one).")],
    config: Annotated[Path, typer.Option("--config", "-c", help="The configuration file of the server that wrote it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Make each decision of a journal again; exits with 1 when a plan differs, or when none could be made again."""
    from budgets.rerun import replay_journal
    from server.settings import load_settings
    from variants.repository import load_catalog

    if not journal.is_file():
        raise ConfigError(f"{journal}: no such journal")
    settings = load_settings(config)
    catalog = load_catalog(Path(settings.repository), trust_code=settings.trust_repository_code)
    lines = list(replay_journal(journal, catalog))
    same = sum(line.same is True for line in lines)
    different = [line for line in lines if line.same is False]
    left_out = Counter(line.why for line in lines if line.same is None)
    if as_json:
        told = {"decisions": len(lines), "same": same, "left_out": dict(left_out)}
        print(json.dumps({**told, "different": [line.model_dump(mode="json") for line in different]}))
    else:
        for line in different:
            when = datetime.fromtimestamp(line.at, UTC).isoformat(timespec="milliseconds")
            out.print(f"{when} differs {line.why}", soft_wrap=True, markup=False)
        for why, count in left_out.items():
            out.print(f"{count} left out: {why}", soft_wrap=True, markup=False)
        out.print(f"{same} of {len(lines)} decisions made again byte for byte, {len(different)} differ")
    if different or not same:
        raise typer.Exit(1)
