"""`trimtab replay`: a trace played on a described cluster in virtual time, under one policy or several to compare."""

from __future__ import annotations

import json
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TaskID

from variants.errors import ConfigError

out, err = Console(highlight=False), Console(stderr=True, highlight=False)
#: Traces may have thousands of models.
MOST_ODD = 10


def replay(
    cluster: Annotated[Path, typer.Option("--cluster", help="Hosts, budgets, objectives (YAML).")],
    profiles: Annotated[Path, typer.Option("--profiles", help="What each variant costs and gives (CSV).")],
    trace: Annotated[Path, typer.Option("--trace", help="Requests or rates (CSV, gzipped CSV or parquet).")],
    policy: Annotated[
        list[str] | None, typer.Option("--policy", help="Repeat to compare; `all`: every policy. Default: trimtab.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw load, quality, violations, memory (PNG, SVG).")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the requests drawn from rates.")] = 0,
) -> None:
    """Play a trace on a cluster and say what each policy makes of it."""
    from budgets.replay.inputs import read_inputs
    from budgets.replay.policies import POLICIES
    from budgets.replay.result import HEAD, row
    from budgets.replay.run import play

    wanted = list(dict.fromkeys(policy or ["trimtab"]))
    if "all" in wanted:
        wanted = list(POLICIES)
    if unknown := [p for p in wanted if p not in POLICIES]:
        raise ConfigError(f"no policy {', '.join(map(repr, unknown))}; there are {', '.join(POLICIES)}, or all")
    made = read_inputs(cluster, profiles, trace)
    odd = [f"{model}: no request can be served: {why}" for model, why in made.unservable().items()]
    for said in odd[:MOST_ODD]:
        err.print(f"warning: {said}", soft_wrap=True)
    if len(odd) > MOST_ODD:
        err.print(f"warning: and {len(odd) - MOST_ODD} models more", soft_wrap=True)
    results = []
    with Progress(console=Console(stderr=True), transient=True) as bar:
        for name in wanted:
            task = bar.add_task(name, total=1.0)
            watch = partial(_show, bar, task)
            results.append(play(made, name, seed=seed, watch=watch))
            watch(1.0)
    out.print(HEAD, soft_wrap=True)
    for result in results:
        out.print(row(result), soft_wrap=True)
    if json_file is not None:
        _write(json_file, json.dumps(results[0] if len(results) == 1 else {r["policy"]: r for r in results}, indent=1))
    if plot is not None:
        from budgets.replay.plot import draw

        draw(results, plot)


def _show(bar: Progress, task: TaskID, share: float) -> None:
    bar.update(task, completed=share)


def _write(path: Path, text: str) -> None:
    """All of it or nothing: a result that was half written would look like one."""
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.resolve().parent, prefix=path.name, delete=False) as stream:
            stream.write(text + "\n")
        os.replace(stream.name, path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
