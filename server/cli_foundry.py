"""`trimtab` commands that make and measure variants: build, profile, ladder, advise, export, search, report."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from server import cli_views as views
from server import foundry_views as shown
from variants.catalog import Entry

app = typer.Typer(add_completion=False)
#: Tables are cut to a terminal's width, not to what is assumed of a file.
out = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
err = Console(stderr=True, highlight=False)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
FolderArgument = Annotated[
    Path, typer.Argument(help="A model's folder (with model.yaml), or a repository of such folders.")
]
ModelArgument = Annotated[Path, typer.Argument(help="A model's folder (with model.yaml).")]


@app.command()
def build(
    folder: FolderArgument,
    technique: Annotated[
        list[str] | None,
        typer.Option("--technique", "-t", help="Such as int8 or distil+int8; default: model.yaml's build."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what model.yaml's techniques name beyond its build.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Build again what is there already.")] = False,
) -> None:
    """Build variants: the reference and what model.yaml's `build` names."""
    import variants.build.pipeline as pipeline
    from variants.repository import load_model

    def one(model: Path) -> bool:
        names = technique
        if everything:
            document = load_model(model)
            names = list(dict.fromkeys([*document.build, *document.techniques, *(technique or [])]))
        with views.progress(err, f"build {model.name}") as report:
            summary = pipeline.build(model, names, force=force, progress=report)
        shown.print_summary(out, model.name, summary)
        return not summary.failed

    _each(folder, one)


@app.command()
def profile(
    folder: FolderArgument,
    variant: Annotated[str | None, typer.Option("--variant", "-v", help="Only this one.")] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Of an engine call; default: half of this machine's share.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Measure again what is measured already.")] = False,
) -> None:
    """Measure variants on this machine, each in a fresh process. What was measured is kept as it comes in."""
    from server.profiling import profile_model

    def one(model: Path) -> bool:
        with views.progress(err, f"profile {model.name}") as report:
            measured, failed = profile_model(model, only=variant, threads=threads, force=force, progress=report)
        out.print(f"{model.name}: measured {', '.join(measured) or 'nothing new'}", soft_wrap=True)
        for name, why in failed.items():
            reason = escape(shown.without(why, model.name, name))
            out.print(f"{model.name}: [yellow]cannot measure[/] {name}: {reason}", soft_wrap=True)
        return True

    _each(folder, one)


@app.command()
def ladder(
    folder: FolderArgument,
    as_json: JsonOption = False,
    picture: Annotated[bool, typer.Option("--png/--no-png", help="Write ladder.png into each model's folder.")] = True,
) -> None:
    """Print each model's variants and which of them are on its Pareto front, and draw them."""
    from variants.figure import draw
    from variants.pareto import table
    from variants.repository import load_catalog

    folders = model_folders(folder)
    catalog = load_catalog(folders[0].parent)
    rows = {f.name: table(catalog.entries[f.name], catalog.device) for f in folders if f.name in catalog.entries}
    if as_json:
        print(json.dumps({"device": catalog.device, "models": {n: [r.__dict__ for r in t] for n, t in rows.items()}}))
        return
    shown.print_ladders(out, catalog.device, rows)
    views.print_refused(err, [r for r in catalog.refused if r.model in {f.name for f in folders}])
    if picture:
        for model in folders:
            if any(r.quality is not None for r in rows.get(model.name, [])):
                draw(model.name, rows[model.name], model / "ladder.png")
                out.print(f"{model / 'ladder.png'}", soft_wrap=True)


@app.command()
def advise(folder: FolderArgument) -> None:
    """Which techniques are worth trying for a model, with measured or estimated numbers, and what to type."""
    from variants.build.advise import advise as walk

    def one(model: Path) -> bool:
        shown.print_advice(out, walk(model, _entry(model)))
        return True

    _each(folder, one)


@app.command()
def export(
    folder: ModelArgument,
    variant: str,
    to: Annotated[str, typer.Option("--to", help="onnx, openvino, litert or executorch.")],
    target: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: MODEL-VARIANT and the suffix.")
    ] = None,
    python: Annotated[
        str, typer.Option("--python", help="The interpreter that has the converter (litert, executorch).")
    ] = sys.executable,
    batch: Annotated[int, typer.Option("--batch", min=1, help="The fixed batch of a .tflite or .pte file.")] = 1,
) -> None:
    """Write a variant as a file for another runtime, compared there with the variant first."""
    from variants.build.handout import SUFFIXES, hand_out

    model = model_folders(folder)[0]
    entry = _entry(model)
    target = target or Path(f"{entry.model.name}-{variant}{SUFFIXES.get(to, '')}")
    apart = hand_out(model, entry, variant, to, target, python=python, batch=batch)
    out.print(f"{target}: answers {apart:.2g} away from {variant} in {to}'s own runtime", soft_wrap=True)


@app.command()
def search(
    folder: ModelArgument,
    minutes: Annotated[float, typer.Option("--minutes", min=0.1, help="How long to search, training included.")] = 10.0,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    trials: Annotated[int | None, typer.Option("--trials", help="So many trials, however long they take.")] = None,
    address: Annotated[
        str | None, typer.Option("--address", help="A Ray cluster whose nodes share this folder: a trial on each.")
    ] = None,
) -> None:
    """Search over techniques and parameters on measured values; the front becomes variants. Resumes where it stopped."""
    from variants.build.search import search as find

    model, nodes = model_folders(folder)[0], None
    with views.progress(err, f"search {model.name}") as report:
        if address:
            from server.foundry_cluster import work

            bench, nodes = work(address, model, minutes, seed, report, trials)
            found = bench.publish()
        else:
            found = find(model, minutes=minutes, seed=seed, progress=report, trials=trials)
    for note in found.notes:
        err.print(f"{model.name}: {note}", soft_wrap=True, markup=False)
    for number, why in found.failed.items():
        err.print(f"{model.name}: trial {number} failed: {why}", soft_wrap=True, markup=False)
    shown.print_found(out, model.name, found, nodes)


@app.command()
def report(
    folder: FolderArgument,
    target: Annotated[Path, typer.Option("--output", "-o", help="The HTML file.")] = Path("report.html"),
) -> None:
    """Write one self-contained HTML page: every model's ladder, pictures, and how each variant was made."""
    from server.foundry_report import page
    from variants.repository import load_catalog

    folders = model_folders(folder)
    catalog = load_catalog(folders[0].parent)
    names = {f.name for f in folders}
    target.write_text(page(catalog, names), encoding="utf-8")
    out.print(f"{target}", soft_wrap=True)


def model_folders(folder: Path) -> list[Path]:
    """The model folders named by a path: itself if it has a model.yaml, else those below it.

    Raises ConfigError when there is none.
    """
    from variants.errors import ConfigError

    folder = folder.resolve()
    if (folder / "model.yaml").is_file():
        return [folder]
    found = sorted(p.parent for p in folder.glob("*/model.yaml"))
    if not found:
        raise ConfigError(f"{folder}: no model.yaml here or one folder below")
    return found


def _each(folder: Path, work: Callable[[Path], bool]) -> None:
    """Do something with every model of a folder; what cannot be done with one is said and does not stop the others. Exits
    with 1 if `work` was false or an error for any of them."""
    from variants.errors import TrimtabError

    failed = False
    for model in model_folders(folder):
        try:
            failed = not work(model) or failed
        except TrimtabError as error:
            err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
            failed = True
    if failed:
        raise typer.Exit(1)


def _entry(model: Path) -> Entry:
    """A model that has variants. Raises ConfigError when it has none, or its model.yaml is wrong."""
    from variants.errors import ConfigError
    from variants.repository import load_catalog, load_model

    load_model(model)
    catalog = load_catalog(model.parent)
    if model.name not in catalog.entries:
        reasons = "; ".join(r.reason for r in catalog.refused if r.model == model.name)
        raise ConfigError(f"{model}: {reasons or 'no variant'}; `trimtab build {model} -t fp32` makes the reference")
    return catalog.entries[model.name]
