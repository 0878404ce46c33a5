"""What two servers answered, compared field by field; no I/O but for reading the recorded files."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
ABSENT = "<absent>"


@dataclass(frozen=True)
class Difference:
    """One field of one case: what the oracle has there and what trimtab has."""

    case: str
    field: str
    oracle: Any
    ours: Any


@dataclass(frozen=True)
class Reason:
    """Why fields (`fields`: a regular expression for the whole name) of cases (`cases`: patterns) differ on purpose."""

    title: str
    why: str
    cases: tuple[str, ...]
    fields: str

    def covers(self, difference: Difference) -> bool:
        named = any(fnmatch.fnmatchcase(difference.case, pattern) for pattern in self.cases)
        return named and re.fullmatch(self.fields, difference.field) is not None


def recorded() -> dict[str, Any]:
    """The oracle's answers, as they were recorded."""
    content = json.loads((HERE / "triton.json").read_text(encoding="utf-8"))
    return dict(content)


def reasons() -> list[Reason]:
    content = yaml.safe_load((HERE / "differences.yaml").read_text(encoding="utf-8"))
    return [Reason(r["title"], r["why"].strip(), tuple(r["cases"]), r.get("fields", ".*")) for r in content]


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """A nested value's leaves with their names. Lists of plain values are leaves."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(v, (dict, list)) for v in value):
        for index, inner in enumerate(value):
            yield from flat(inner, f"{name}[{index}]")
    else:
        yield name, value


def differences(oracle: Mapping[str, Any], ours: Mapping[str, Any]) -> list[Difference]:
    """Every field that is not the same, in the order of the cases."""
    found = []
    for case in sorted({*oracle, *ours}):
        left, right = dict(flat(oracle.get(case, ABSENT))), dict(flat(ours.get(case, ABSENT)))
        for field in sorted({*left, *right}):
            a, b = left.get(field, ABSENT), right.get(field, ABSENT)
            if a != b:
                found.append(Difference(case, f"status_{a}_{b}" if (a, b) == (500, 400) else field, a, b))
    return found


def unexplained(found: list[Difference], known: list[Reason]) -> tuple[list[Difference], list[Reason]]:
    """The differences that no reason covers, and the reasons that cover none."""
    used: set[str] = set()
    left = []
    for difference in found:
        covering = [reason for reason in known if reason.covers(difference)]
        used |= {reason.title for reason in covering}
        if not covering:
            left.append(difference)
    return left, [reason for reason in known if reason.title not in used]


#: What one server beside another cannot show.
REPOSITORY = """
## Load and unload

As in Triton (`--model-control-mode=explicit`) and KServe's repository extension, whichever replica is asked: the order goes to
the controller, every host carries it out, and the call returns when all have. A load that fails answers 503 with what the
hosts say (gRPC: UNAVAILABLE); so does an order that finds no controller, and then nothing is done. An unloaded model is
UNAVAILABLE in the index, is not loaded by requests, plans or hosts that start, and does not count for the server's readiness;
the model's own is false. It stays so until it is loaded or everything stops, whether or not the Serve configuration is
submitted anew. A model that the controller *parked* is READY: its next request loads it.
"""


def page(found: list[Difference], known: list[Reason], cases: int, version: str) -> str:
    """docs/conformance.md."""
    lines = [
        "# Conformance",
        "",
        f"{cases} requests are sent to Triton {version} (Python backend) and to trimtab, both with models of the same",
        "signatures: through unmodified `tritonclient` (HTTP and gRPC, sync and asyncio) and as raw bodies. Status, datatype,",
        "shape, content, id, parameters, metadata and the class of an error are compared field by field; an error's words are",
        "each server's own. `make test` compares trimtab with Triton's recorded answers; `make conformance` asks a real Triton",
        "again, and tries the clients of KServe and MLServer. The cases are in `tests/conformance/cases`.",
        "",
        "Where trimtab differs, it does so on purpose. This page is written by `make conformance` from",
        "`tests/conformance/differences.yaml`; a difference that is not there fails the suite, and so does a reason without a",
        "difference.",
        "",
        "| What differs | Why | Fields |",
        "|---|---|---|",
    ]
    for reason in known:
        count = sum(1 for difference in found if reason.covers(difference))
        lines.append(f"| {reason.title} | {' '.join(reason.why.split())} | {count} |")
    return "\n".join(lines) + "\n" + REPOSITORY
