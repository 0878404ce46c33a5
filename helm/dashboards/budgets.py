"""*Budgets*: how near the limits things are, what the controller did about it, and what that came to. The overview."""

from __future__ import annotations

from budgets import exposition as names
from helm.dashboards.parts import (
    BLUE,
    CONTROL,
    GREEN,
    GREY,
    HOST,
    MODEL,
    ORANGE,
    RED,
    YELLOW,
    Json,
    Panel,
    Query,
    dashboard,
    lines,
    stat,
    states,
    styled,
    table,
    to_model,
    variable,
)

BUDGET = f'{CONTROL}, budget=~"$budget"'
DAY = 86400
STATES = {0: ("calm", GREEN), 1: ("scaling", ORANGE), 2: ("saturated", RED)}
#: Ladders may be longer: what is not named here shows its number.
RUNGS = {
    0: ("best", GREEN),
    1: ("1 down", YELLOW),
    2: ("2 down", ORANGE),
    3: ("3 down", "dark-orange"),
    4: ("4 down", RED),
    5: ("5 down", "dark-red"),
    6: ("6 down", "purple"),
}
SWAP = f"model, from_variant, to_variant, {names.GROUP}"
#: One series for each budget, model or tick of each host group; the default one's has no group to show.
EACH = f"budget, {names.GROUP}"


def _now() -> list[Panel]:
    exhaustion = f"clamp_max(min({names.EXHAUSTION}{{{BUDGET}}}), {DAY})"
    more_than_a_day = {
        "type": "range",
        "options": {"from": DAY, "to": None, "result": {"text": "not in sight", "index": 0}},
    }
    named = {str(v): {"text": text, "color": colour, "index": v} for v, (text, colour) in STATES.items()}
    return [
        stat(
            "Worst trigger",
            "The most severe state of any trigger: calm, scaling (past its enter threshold) or saturated (at its limit).",
            Query(f"max({names.TRIGGER}{{{BUDGET}}})"),
            steps={1: ORANGE, 2: RED},
            defaults={"mappings": [{"type": "value", "options": named}]},
        ),
        stat(
            "Exhaustion",
            "Until the first budget reaches its limit at its present trend (Theil-Sen over the last readings).",
            Query(exhaustion),
            unit="s",
            steps={},
            defaults={
                "mappings": [more_than_a_day],
                "thresholds": {
                    "mode": "absolute",
                    "steps": [
                        {"value": None, "color": RED},
                        {"value": 60, "color": ORANGE},
                        {"value": 600, "color": GREEN},
                    ],
                },
            },
        ),
        stat(
            "Models below their best rung",
            "How many models do not run the best variant of their ladder on some host, counted in each host group.",
            Query(f"count(max by (model, {names.GROUP}) ({names.RUNG}{{{MODEL}}}) > 0) or vector(0)"),
            steps={1: YELLOW},
        ),
        stat(
            "No step left",
            "Triggers past their enter threshold that no allowed step relieves: floors, pins or quarantines hold all models.",
            Query(f"sum(max by ({EACH}) ({names.INFEASIBLE}{{{BUDGET}}}))"),
            steps={1: RED},
        ),
        stat(
            "Quarantined variants",
            "Variants that failed to load, or proved bad, and are not planned again for a while or until they are cleared.",
            Query(f"count(max by (model, variant) ({names.QUARANTINED}{{{CONTROL}}})) or vector(0)"),
            steps={1: ORANGE},
        ),
        stat(
            "Since the last tick",
            "Age of the controller's last tick, of the host group that waits longest. It ticks once a second by default.",
            Query(f"time() - min(max by ({names.GROUP}) ({names.LAST_TICK}{{{CONTROL}}}))"),
            unit="s",
            steps={30: ORANGE, 120: RED},
        ),
    ]


def _pressure() -> list[Panel]:
    return [
        lines(
            "Pressure on $budget",
            "Usage / limit of the budget, or latency / objective of an SLO, with the thresholds at which its trigger enters "
            "and leaves. A gap: there is no reading, and nothing is decided on it.",
            Query(f"max by ({EACH}) ({names.PRESSURE}{{{BUDGET}}})", "pressure {{host_group}}"),
            Query(f'max by (budget) ({names.PRESSURE_THRESHOLD}{{{BUDGET}, edge="enter"}})', "enter"),
            Query(f'max by (budget) ({names.PRESSURE_THRESHOLD}{{{BUDGET}, edge="exit"}})', "exit"),
            unit="percentunit",
            overrides=(styled("^enter$", dash=True, color=RED), styled("^exit$", dash=True, color=GREEN)),
            width=24,
            extra={"repeat": "budget", "repeatDirection": "h", "maxPerRow": 3},
        ),
        states(
            "Triggers",
            "State of each trigger. Calm to scaling at the enter threshold, saturated at the limit, calm again at the exit "
            "threshold, each held for its duration.",
            Query(f"max by ({EACH}) ({names.TRIGGER}{{{BUDGET}}})", "{{budget}} {{host_group}}"),
            STATES,
            width=16,
        ),
        lines(
            "Time to exhaustion",
            "Seconds until usage reaches its limit at its present trend; a day stands for everything longer.",
            Query(f"clamp_max(min by ({EACH}) ({names.EXHAUSTION}{{{BUDGET}}}), {DAY})", "{{budget}} {{host_group}}"),
            unit="s",
        ),
    ]


def _rungs() -> list[Panel]:
    return [
        states(
            "Rung in force",
            "Where each model is on its ladder: best, or how many rungs down; below the last one it is parked. The worst of "
            "the chosen hosts of each group.",
            Query(f"max by (model, {names.GROUP}) ({names.RUNG}{{{MODEL}}})", "{{model}} {{host_group}}"),
            RUNGS,
            width=16,
            links=to_model(),
        ),
        lines(
            "Quality in force",
            "Quality of the variant that answers: the task's metric, or fidelity to the reference variant. The worst of the "
            "chosen hosts.",
            Query(f"min by (model, {names.GROUP}) ({names.QUALITY}{{{MODEL}}})", "{{model}} {{host_group}}"),
            unit="percentunit",
            defaults={"min": None, "max": 1},
            links=to_model(),
        ),
    ]


def _relief() -> list[Panel]:
    planned = f"max by ({SWAP}) ({names.PLANNED_BYTES}{{{CONTROL}}})"
    measured = f"max by ({SWAP}) ({names.MEASURED_BYTES}{{{CONTROL}}})"
    return [
        table(
            "Predicted and measured bytes of each swap",
            "What a swap was predicted to give back (degrade) or take (restore) on one host, from the profiles, and what "
            "was measured when it was last made.",
            Query(planned),
            Query(measured),
            columns={
                "model": "Model",
                names.GROUP: "Host group",
                "from_variant": "From",
                "to_variant": "To",
                "Value #A": "Predicted",
                "Value #B": "Measured",
            },
            unit="bytes",
            width=12,
        ),
        lines(
            "Measured / predicted",
            "1 is a perfect prediction. The controller corrects its predictions by what it measured.",
            Query(f"{measured} / ({planned} > 0)", "{{model}}: {{from_variant}} → {{to_variant}} {{host_group}}"),
            unit="percentunit",
            width=12,
        ),
        lines(
            "Finished swaps",
            "Swaps that ended, by direction and outcome: done, rolled_back or failed.",
            Query(
                f"sum by (direction, outcome) (increase({names.SWAPS}{{{MODEL}}}[$__rate_interval]))",
                "{{direction}} {{outcome}}",
            ),
        ),
        lines(
            "Ticks",
            "Ticks of the controller per second, by what they did: steady, swap, error.",
            Query(f"sum by (outcome) (rate({names.TICKS}{{{CONTROL}}}[$__rate_interval]))", "{{outcome}}"),
            Query(
                f"max(max by ({names.GROUP}) ({names.PLAN_GENERATION}{{{CONTROL}}})"
                f" - min by ({names.GROUP}) ({names.OBSERVED_GENERATION}{{{HOST}}}))",
                "plans the slowest host is behind",
            ),
            overrides=(styled("behind$", color=BLUE, unit="none"), styled("^steady$", color=GREY)),
        ),
        lines(
            "Age of readings",
            "How old the reading of each budget was when it was used. A stale one justifies no swap.",
            Query(f"max by ({EACH}) ({names.SOURCE_AGE}{{{BUDGET}}})", "{{budget}} {{host_group}}"),
            unit="s",
        ),
    ]


def made() -> Json:
    """The dashboard."""
    return dashboard(
        "trimtab-budgets",
        "trimtab / Budgets",
        "Pressure on every budget and SLO, and what the controller did about it. Follow a model's link for its details.",
        [("Now", _now()), ("Pressure", _pressure()), ("Models", _rungs()), ("Swaps and decisions", _relief())],
        variable("budget", "Budget", f"{names.TRIGGER}{{{CONTROL}}}", "budget"),
    )
