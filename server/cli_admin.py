"""The commands that talk to a running server's admin API."""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import Annotated, Any

import typer
from rich.console import Console

from budgets.config import parse_bytes
from server import cli_views as views

out = Console(highlight=False)

UrlOption = Annotated[str, typer.Option("--url", envvar="TRIMTAB_URL", help="Where the server's admin port is.")]
TokenOption = Annotated[
    str | None,
    typer.Option("--token", envvar="TRIMTAB_TOKEN", show_envvar=True, help="Bearer token; better in the environment."),
]
CaOption = Annotated[
    str | None,
    typer.Option("--ca-file", envvar="TRIMTAB_CA_FILE", help="PEM file to check the server's certificate with."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
URL = "http://127.0.0.1:8002"
PARKED = "parked"

budgets = typer.Typer(no_args_is_help=True, help="See budgets, and change them while the server runs.")
quarantine = typer.Typer(no_args_is_help=True, help="Variants that failed and are not planned again for a while.")


def client(url: str, token: str | None, ca_file: str | None) -> Any:
    """An `AdminClient`; imported late, since that is slow."""
    from server.client import AdminClient

    return AdminClient(url, token=token, ca_file=ca_file)


def show(answer: Any, as_json: bool, view: Any) -> None:
    """JSON for programs, or a view for people."""
    if as_json:
        print(json.dumps(answer))
    else:
        view(out, answer)


def status(
    url: UrlOption = URL, token: TokenOption = None, ca_file: CaOption = None, as_json: JsonOption = False
) -> None:
    """Budgets, triggers, and what each model runs."""
    show(client(url, token, ca_file).get("status"), as_json, views.print_status)


def plan(
    url: UrlOption = URL, token: TokenOption = None, ca_file: CaOption = None, as_json: JsonOption = False
) -> None:
    """What would be done next, and why not yet. Nothing is done."""
    show(client(url, token, ca_file).get("plan"), as_json, views.print_plan)


def decisions(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="How many.")] = 20,
    before: Annotated[float | None, typer.Option("--before", help="Older than this (unix seconds).")] = None,
    url: UrlOption = URL,
    token: TokenOption = None,
    ca_file: CaOption = None,
    as_json: JsonOption = False,
) -> None:
    """What was decided and why, newest last."""
    show(client(url, token, ca_file).get("decisions", limit=limit, before=before), as_json, views.print_decisions)


def explain(
    model: Annotated[str | None, typer.Argument(help="Only this model.")] = None,
    url: UrlOption = URL,
    token: TokenOption = None,
    ca_file: CaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Why each model runs what it runs: the last decisions, with their numbers."""
    show(client(url, token, ca_file).get("explain", model=model), as_json, views.print_explanation)


def what_if(
    budget: Annotated[str, typer.Argument(help="A memory budget.")],
    smaller: Annotated[str | None, typer.Option("--smaller", help="By so much (2GiB, or bytes).")] = None,
    larger: Annotated[str | None, typer.Option("--larger", help="By so much.")] = None,
    url: UrlOption = URL,
    token: TokenOption = None,
    ca_file: CaOption = None,
    as_json: JsonOption = False,
) -> None:
    """What would follow if a memory budget were smaller or larger; nothing is done."""
    if (smaller is None) == (larger is None):
        raise typer.BadParameter("give one of --smaller and --larger")
    try:
        change = int(str(parse_bytes(_size(larger if smaller is None else smaller))))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    delta = change if smaller is None else -change
    answer = client(url, token, ca_file).get("what-if", budget=budget, delta_bytes=delta)
    show(answer, as_json, views.print_what_if)


def swap(
    model: str,
    variant: Annotated[str | None, typer.Argument(help="The variant to move to, once.")] = None,
    pin: Annotated[str | None, typer.Option("--pin", help="Stay there until unpinned; `parked` for none.")] = None,
    url: UrlOption = URL,
    token: TokenOption = None,
    ca_file: CaOption = None,
) -> None:
    """Move a model to a variant by hand, once (VARIANT) or for good (--pin)."""
    if (variant is None) == (pin is None):
        raise typer.BadParameter("give either VARIANT or --pin VARIANT")
    reached = client(url, token, ca_file)
    if pin is not None:
        pins = reached.post("pin", model=model, variant=None if pin == PARKED else pin)
        out.print(f"pinned: {views.pins_text(pins)}")
        return
    answer = reached.post("swap", model=model, variant=variant)
    out.print(f"{model} -> {variant}: plan {answer['generation']}")
    for hold in answer["holds"]:
        out.print(f"waiting: {hold}", soft_wrap=True, markup=False)


def pin(
    model: str,
    variant: Annotated[str, typer.Argument(help="The variant to run until unpinned; `parked` for none.")],
    url: UrlOption = URL,
    token: TokenOption = None,
    ca_file: CaOption = None,
) -> None:
    """Keep a model on a variant; the controller leaves it alone until `unpin`."""
    swap(model, pin=variant, url=url, token=token, ca_file=ca_file)


def unpin(model: str, url: UrlOption = URL, token: TokenOption = None, ca_file: CaOption = None) -> None:
    """Give a pinned model back to the controller."""
    out.print(f"pinned: {views.pins_text(client(url, token, ca_file).post('unpin', model=model))}")


def park(model: str, url: UrlOption = URL, token: TokenOption = None, ca_file: CaOption = None) -> None:
    """Take a model out of memory until `unpin`; its next request loads it."""
    out.print(f"pinned: {views.pins_text(client(url, token, ca_file).post('park', model=model))}")


def reload(url: UrlOption = URL, token: TokenOption = None, ca_file: CaOption = None) -> None:
    """Read the configuration file again."""
    answer = client(url, token, ca_file).post("reload")
    out.print(f"applied: {', '.join(answer['applied']) or 'nothing has changed'}", soft_wrap=True)
    if answer["restart"]:
        out.print(f"needs a restart: {', '.join(answer['restart'])}", soft_wrap=True)


def token() -> None:
    """Make a new token: give it to the caller, and its SHA-256 to the tokens file."""
    made = secrets.token_urlsafe(32)
    print(f"token:  {made}")
    print(f"sha256: {hashlib.sha256(made.encode()).hexdigest()}")


@budgets.command("list")
def list_budgets(
    url: UrlOption = URL, token: TokenOption = None, ca_file: CaOption = None, as_json: JsonOption = False
) -> None:
    """Budgets as they are in force; those changed at run time are marked."""
    show(client(url, token, ca_file).get("budgets"), as_json, views.print_budgets)


@budgets.command("set")
def set_budget(
    name: str,
    limit: Annotated[str | None, typer.Option("--limit", help="Bytes, or such as 3GiB.")] = None,
    limit_fraction: Annotated[float | None, typer.Option("--limit-fraction", help="Of what there is.")] = None,
    enter: Annotated[
        float | None, typer.Option("--enter", help="Share of the limit at which the trigger enters.")
    ] = None,
    exit_: Annotated[float | None, typer.Option("--exit", help="Share of the limit at which it leaves.")] = None,
    enter_seconds: Annotated[float | None, typer.Option("--enter-seconds")] = None,
    exit_seconds: Annotated[float | None, typer.Option("--exit-seconds")] = None,
    reserve: Annotated[
        str | None, typer.Option("--reserve", help="Kept free when restoring; bytes, or 500MiB.")
    ] = None,
    url: UrlOption = URL,
    token: TokenOption = None,
    ca_file: CaOption = None,
) -> None:
    """Change a budget while the server runs. It survives restarts, until `reset`."""
    given = {
        "limit": _size(limit),
        "limit_fraction": limit_fraction,
        "enter": enter,
        "exit": exit_,
        "enter_seconds": enter_seconds,
        "exit_seconds": exit_seconds,
        "reserve": _size(reserve),
    }
    change = {key: value for key, value in given.items() if value is not None}
    if not change:
        raise typer.BadParameter("nothing to change; see --help for what there is")
    views.print_budgets(out, {"budgets": [client(url, token, ca_file).change_budget(name, change)]})


@budgets.command("reset")
def reset_budget(name: str, url: UrlOption = URL, token: TokenOption = None, ca_file: CaOption = None) -> None:
    """Give a budget the configuration file's values back."""
    views.print_budgets(out, {"budgets": [client(url, token, ca_file).reset_budget(name)]})


@quarantine.command("clear")
def clear(model: str, variant: str, url: UrlOption = URL, token: TokenOption = None, ca_file: CaOption = None) -> None:
    """Let a variant that failed be planned again."""
    client(url, token, ca_file).post("quarantine/clear", model=model, variant=None if variant == PARKED else variant)
    out.print(f"{model}/{variant} may be planned again")


def _size(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdigit() else text


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (status, plan, decisions, explain, what_if, swap, pin, unpin, park, reload, token):
        app.command()(command)
    app.add_typer(budgets, name="budgets")
    app.add_typer(quarantine, name="quarantine")
