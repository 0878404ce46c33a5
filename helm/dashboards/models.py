"""*Models*: what clients get, model by model, and from which variant."""

from __future__ import annotations

from budgets import exposition as names
from helm.dashboards.parts import (
    CONTROL,
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
    to_model,
)

RATE = f"sum by (model) (rate({names.REQUESTS}{{{MODEL}}}[$__rate_interval]))"
#: What clients did wrong, or did not wait for, is not the server's error.
FAULT = f'{MODEL}, code!~"ok|InvalidInput|UnknownModel|TooLarge|Cancelled"'


def quantile(q: float, metric: str, by: str = "model") -> str:
    """A quantile over the chosen hosts of one of their histograms."""
    return f"histogram_quantile({q}, sum by ({by}, le) (rate({metric}_bucket{{{MODEL}}}[$__rate_interval])))"


def mean(metric: str) -> str:
    """The mean of what a histogram counts."""
    total, count = (f"sum by (model) (rate({metric}_{part}{{{MODEL}}}[$__rate_interval]))" for part in ("sum", "count"))
    return f"{total} / {count}"


def _now() -> list[Panel]:
    total = f"sum(rate({names.REQUESTS}{{{MODEL}}}[$__rate_interval]))"
    slowest = f"max by (model) ({quantile(0.99, names.REQUEST_DURATION)})"
    return [
        stat(
            "Requests", "Answered requests per second, errors included.", Query(total), unit="reqps", steps={}, width=6
        ),
        stat(
            "Errors",
            "Share of the requests that ended in an error of the server's: full queue, deadline, unavailable, engine.",
            Query(f"(sum(rate({names.REQUESTS}{{{FAULT}}}[$__rate_interval])) or vector(0)) / {total}"),
            unit="percentunit",
            steps={0.001: YELLOW, 0.01: RED},
            width=6,
        ),
        stat(
            "Slowest p99 / objective",
            "The worst of the chosen models that have an SLO. Above 100 % it is missed.",
            Query(f"max({slowest} / on (model) max by (model) ({names.SLO_LATENCY}{{{CONTROL}}}))"),
            unit="percentunit",
            steps={0.8: YELLOW, 1: RED},
            width=6,
        ),
        stat(
            "Waiting",
            "Requests that wait in queues now.",
            Query(f"sum({names.QUEUE_DEPTH}{{{MODEL}}})"),
            steps={64: ORANGE},
            width=6,
        ),
    ]


def _clients() -> list[Panel]:
    return [
        lines(
            "Rate",
            "Answered requests per second, errors included.",
            Query(RATE, "{{model}}"),
            unit="reqps",
            links=to_model(),
        ),
        lines(
            "Errors by cause",
            "Share of each model's requests that ended in an error, by its class. InvalidInput, TooLarge and Cancelled are "
            "the clients'.",
            Query(
                f'sum by (model, code) (rate({names.REQUESTS}{{{MODEL}, code!="ok"}}[$__rate_interval]))'
                f" / on (model) group_left () {RATE}",
                "{{model}}: {{code}}",
            ),
            unit="percentunit",
        ),
        lines(
            "Rate by transport",
            "Answered requests per second over HTTP and gRPC.",
            Query(f"sum by (protocol) (rate({names.REQUESTS}{{{MODEL}}}[$__rate_interval]))", "{{protocol}}"),
            unit="reqps",
        ),
        lines(
            "Latency of $model",
            "From arrival to answer inside the host, over all chosen hosts, with the objective. Points are traces, where "
            "tracing is on and Prometheus stores exemplars.",
            *(
                Query(quantile(q, names.REQUEST_DURATION), f"p{q * 100:.0f}", exemplars=q == 0.99)
                for q in (0.5, 0.95, 0.99)
            ),
            Query(
                f'max by (quantile) ({names.SLO_LATENCY}{{{CONTROL}, model=~"$model"}})', "objective at {{quantile}}"
            ),
            unit="s",
            overrides=(styled("^objective", dash=True, color=RED),),
            width=24,
            extra={"repeat": "model", "repeatDirection": "h", "maxPerRow": 3},
        ),
    ]


def _inside() -> list[Panel]:
    return [
        lines(
            "Requests waiting",
            "Length of each model's queue, summed over the chosen hosts.",
            Query(f"sum by (model) ({names.QUEUE_DEPTH}{{{MODEL}}})", "{{model}}"),
        ),
        lines(
            "Time in the queue",
            "p50 and p99 of the time from a request's arrival to the engine call.",
            *(Query(quantile(q, names.QUEUE_DURATION), f"{{{{model}}}} p{q * 100:.0f}") for q in (0.5, 0.99)),
            unit="s",
        ),
        lines(
            "Batch size",
            "Samples per engine call: mean and p95.",
            Query(mean(names.BATCH_SIZE), "{{model}} mean"),
            Query(quantile(0.95, names.BATCH_SIZE), "{{model}} p95"),
        ),
        lines(
            "Engine time of a sample",
            "Seconds inside the engine for one sample, by the variant that computed it.",
            Query(
                f"sum by (model, variant) (rate({names.ENGINE_SECONDS}{{{MODEL}}}[$__rate_interval]))"
                f" / sum by (model, variant) (rate({names.ENGINE_SAMPLES}{{{MODEL}}}[$__rate_interval]))",
                "{{model}} {{variant}}",
            ),
            unit="s",
            width=12,
        ),
        lines(
            "Samples",
            "Samples per second through engines.",
            Query(
                f"sum by (model, variant) (rate({names.ENGINE_SAMPLES}{{{MODEL}}}[$__rate_interval]))",
                "{{model}} {{variant}}",
            ),
            stack=True,
            width=12,
        ),
    ]


def _variants() -> list[Panel]:
    return [
        states(
            "Variant in force",
            "When which variant answered, on any of the chosen hosts of a group. Two at a time: hosts in the middle of a swap.",
            Query(
                f"max by (model, variant, {names.GROUP}) ({names.IN_FORCE}{{{MODEL}}}) == 1",
                "{{model}}: {{variant}} {{host_group}}",
            ),
            {1: ("in force", "blue")},
            width=16,
        ),
        lines(
            "Quality in force",
            "Quality of the variant that answers; the worst of the chosen hosts of each group.",
            Query(f"min by (model, {names.GROUP}) ({names.QUALITY}{{{MODEL}}})", "{{model}} {{host_group}}"),
            unit="percentunit",
            defaults={"min": None, "max": 1},
        ),
        lines(
            "Resident bytes",
            "Memory that loaded variants hold, measured where it could be, summed over the chosen hosts. Two variants of a "
            "model at once: make before break.",
            Query(f"sum by (model, variant) ({names.RESIDENT}{{{MODEL}}})", "{{model}} {{variant}}"),
            unit="bytes",
            stack=True,
        ),
        lines(
            "Answers by variant",
            "Answered requests per second, by the variant that computed them.",
            Query(
                f'sum by (model, variant) (rate({names.REQUESTS}{{{MODEL}, code="ok"}}[$__rate_interval]))',
                "{{model}} {{variant}}",
            ),
            unit="reqps",
            stack=True,
        ),
        lines(
            "Duration of swaps",
            "p95 from the beginning to the end of a swap, by how it was made.",
            Query(quantile(0.95, names.SWAP_DURATION, "mode"), "{{mode}}"),
            unit="s",
        ),
    ]


def made() -> Json:
    """The dashboard."""
    return dashboard(
        "trimtab-models",
        "trimtab / Models",
        "Rate, errors and latency against the objective; queues, batches, and the variants behind the answers.",
        [("Now", _now()), ("Clients", _clients()), ("Inside", _inside()), ("Variants", _variants())],
    )
