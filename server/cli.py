"""The `trimtab` command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from server import cli_admin, cli_replay
from server import cli_views as views
from variants.errors import TrimtabError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A multi-model inference server with resource budgeting.",
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

app.command()(cli_replay.replay)

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The server's configuration file (YAML).")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
FolderArgument = Annotated[
    Path, typer.Argument(help="A model's folder (with model.yaml), or a repository of such folders.")
]

cli_admin.add_to(app)


def main() -> None:
    """Entry point: domain errors are printed in one line and exit with 1, without a traceback."""
    try:
        app()
    except TrimtabError as error:
        err.print(f"[bold red]error:[/] {error}", soft_wrap=True)
        raise SystemExit(1) from None


@app.command()
def serve(config: ConfigOption) -> None:
    """Serve the repository until Ctrl-C."""
    from server import cluster, logs
    from server.settings import load_settings
    from server.start import starting_assignment

    settings = load_settings(config)
    logs.configure(settings.logging, "server")

    def say(line: str) -> None:
        if settings.logging.format == "json":
            logs.ROOT.info("%s", line)
        else:
            out.print(line, soft_wrap=True)

    assignment, notes = starting_assignment(settings)
    for note in notes:
        say(note)
    cluster.run(settings, assignment, say)


@app.command()
def build(
    folder: FolderArgument,
    technique: Annotated[
        list[str] | None,
        typer.Option("--technique", "-t", help="Such as int8 or distil+int8; default: model.yaml's build."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build again what is there already.")] = False,
) -> None:
    """Build variants: the reference and what model.yaml's `build` names."""
    import variants.build.pipeline as pipeline

    failed = False
    for model in model_folders(folder):
        with views.progress(err, f"build {model.name}") as report:
            summary = pipeline.build(model, technique, force=force, progress=report)
        views.print_summary(out, model.name, summary)
        failed = failed or bool(summary.failed)
    if failed:
        raise typer.Exit(1)


@app.command()
def profile(
    folder: FolderArgument,
    variant: Annotated[str | None, typer.Option("--variant", "-v", help="Only this one.")] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Engine threads; default: this machine's share.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Measure again what is measured already.")] = False,
) -> None:
    """Measure variants on this machine, each in a fresh process."""
    from server.profiling import profile_model

    for model in model_folders(folder):
        with views.progress(err, f"profile {model.name}") as report:
            measured = profile_model(model, only=variant, threads=threads, force=force, progress=report)
        out.print(f"{model.name}: measured {', '.join(measured) or 'nothing new'}")


@app.command()
def fetch(
    url: Annotated[str, typer.Argument(help="Such as s3://bucket/models, gs://bucket/models or file:///srv/models.")],
    folder: Annotated[Path, typer.Argument(help="Where the repository goes: an empty folder, or one fetched before.")],
    options: Annotated[
        str, typer.Option("--options", help="JSON: the file system's options, such as endpoint.")
    ] = "{}",
    sums_sha256: Annotated[
        str | None, typer.Option("--sums-sha256", help="Accept only a SHA256SUMS file with this checksum.")
    ] = None,
) -> None:
    """Fetch a repository from object storage and verify every checksum. Nothing changes unless all of it is right."""
    from variants.errors import ConfigError
    from variants.fetch import fetch as fetch_repository

    try:
        chosen = json.loads(options)
    except ValueError as error:
        raise ConfigError(f"--options: not JSON: {error}") from error
    if not isinstance(chosen, dict):
        raise ConfigError("--options: a JSON object is expected")
    done = fetch_repository(
        url, folder, options=chosen, sums_sha256=sums_sha256, report=lambda line: out.print(line, soft_wrap=True)
    )
    out.print(
        f"verified {', '.join(done.models)}: {done.files} files, {done.reused} of them here already, "
        f"{done.bytes / 1e6:.1f} MB fetched",
        soft_wrap=True,
    )


@app.command()
def ladder(folder: FolderArgument, as_json: JsonOption = False) -> None:
    """Print each model's variants and which of them are on its Pareto front."""
    from variants.pareto import table
    from variants.repository import load_catalog

    folders = model_folders(folder)
    catalog = load_catalog(folders[0].parent)
    rows = {f.name: table(catalog.entries[f.name], catalog.device) for f in folders if f.name in catalog.entries}
    if as_json:
        print(json.dumps({"device": catalog.device, "models": {n: [r.__dict__ for r in t] for n, t in rows.items()}}))
        return
    views.print_ladders(out, catalog.device, rows)
    views.print_refused(err, catalog.refused)


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


if __name__ == "__main__":
    main()
