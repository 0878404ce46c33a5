"""The `trimtab` command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from server import cli_admin, cli_foundry, cli_replay, cli_rerun
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
app.command()(cli_rerun.rerun)
app.add_typer(cli_foundry.app)

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The server's configuration file (YAML).")]

cli_admin.add_to(app)


def main() -> None:
    """Entry point: domain errors are printed in one line and exit with 1, without a traceback."""
    try:
        app()
    except TrimtabError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        raise SystemExit(1) from None


@app.command()
def serve(config: ConfigOption) -> None:
    """Serve the repository until Ctrl-C."""
    from server import cluster, logs
    from server.settings import load_settings
    from server.start import starting_assignment

    settings = load_settings(config)
    logs.configure(settings.logging, "server")
    say = logs.speaker(settings.logging)
    assignment, notes = starting_assignment(settings)
    for note in notes:
        say(note)
    cluster.run(settings, assignment, say)


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


if __name__ == "__main__":
    main()
