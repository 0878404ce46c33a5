"""Past decisions for people and pages: newest first, from memory and from the journal's files, each with its sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from budgets import explain as words
from budgets.journal import KEPT
from budgets.plan import Decision

BLOCK = 1 << 18
#: A journal line starts with its time, so lines that are not wanted need not be read further.
STAMP = re.compile(rb'\{"at":([0-9.eE+-]+),')


def record(decision: Decision, previous: Decision | None) -> dict[str, Any]:
    """One decision, JSON-able. `sentences` tell what happened: triggers that changed since `previous`, swaps and why,
    how earlier ones ended, an error."""
    return {
        "at": decision.at,
        "generation": decision.plan.generation,
        "triggers": [t.model_dump(mode="json") for t in decision.triggers],
        "pressures": [p.model_dump(mode="json") for p in decision.pressures],
        "swaps": [s.model_dump(mode="json") for s in decision.plan.swaps],
        "holds": [h.model_dump(mode="json") for h in decision.plan.holds],
        "outcomes": [o.model_dump(mode="json") for o in decision.outcomes],
        "error": decision.error,
        "sentences": sentences(decision, previous),
    }


def sentences(decision: Decision, previous: Decision | None) -> list[str]:
    """What a decision changed, in words; empty for a heartbeat."""
    states = {t.name: t.state for t in previous.triggers} if previous else {}
    ratios = {p.name: p.ratio for p in decision.pressures}
    lines = []
    for trigger in decision.triggers:
        before = states.get(trigger.name, "calm")
        if before != trigger.state:
            ratio = ratios.get(trigger.name)
            at = "" if ratio is None else f" at {ratio:.2f}"
            lines.append(f"{trigger.name}: {before} -> {trigger.state}{at}")
    lines += [words.sentence(swap) for swap in decision.plan.swaps]
    lines += [text for _, text in words.served(decision)]
    lines += [words.outcome(done) for done in decision.outcomes]
    if decision.error:
        lines.append(f"error: {decision.error}")
    return lines


def page(journal: Path, recent: list[Decision], before: float, limit: int) -> dict[str, Any]:
    """Up to `limit` decisions older than `before` (unix seconds), newest first: from `recent` (oldest first) as far as
    that reaches, then from the journal. `next` is the `before` of the following page, None after the last one."""
    found: list[Decision] = []
    for decision in newest_first(journal, recent, before):
        found.append(decision)
        if len(found) > limit:
            break
    told = [record(d, found[i + 1] if i + 1 < len(found) else None) for i, d in enumerate(found)]
    more = len(found) > limit
    return {"decisions": told[:limit], "next": found[limit - 1].at if more else None}


def merged(pages: Mapping[str, dict[str, Any]], limit: int) -> dict[str, Any]:
    """Pages of several host groups as one, each decision with its group. Groups decide at the same moments, and those are
    not torn apart: the page may be longer than `limit` by the number of groups less one."""
    found = [{"group": group, **told} for group, one in pages.items() for told in one["decisions"]]
    found.sort(key=lambda told: -told["at"])
    end = found[limit - 1]["at"] if len(found) > limit else None
    kept = found if end is None else [told for told in found if told["at"] >= end]
    more = len(kept) < len(found) or any(one["next"] is not None for one in pages.values())
    return {"decisions": kept, "next": kept[-1]["at"] if more and kept else None}


def newest_first(journal: Path, recent: list[Decision], before: float) -> Iterator[Decision]:
    """All decisions older than `before` that are still there."""
    oldest = before
    for decision in reversed(recent):
        if decision.at < before:
            oldest = decision.at
            yield decision
    oldest = min(oldest, recent[0].at) if recent else oldest
    for number in range(KEPT + 1):
        path = journal if number == 0 else journal.with_name(f"{journal.name}.{number}")
        for line in backwards(path):
            stamp = STAMP.match(line)
            if stamp is None or float(stamp[1]) >= oldest:
                continue
            try:
                yield Decision.model_validate_json(line)
            except ValueError:
                continue  # torn or foreign


def backwards(path: Path) -> Iterator[bytes]:
    """A file's lines, last one first, in bounded memory but for the longest line. Nothing when there is no file."""
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        return
    with stream:
        end = stream.seek(0, 2)
        rest = b""
        while end > 0:
            start = max(0, end - BLOCK)
            stream.seek(start)
            first, *lines = (stream.read(end - start) + rest).split(b"\n")
            yield from (line for line in reversed(lines) if line)
            rest, end = first, start
        if rest:
            yield rest
