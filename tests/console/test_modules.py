"""The page's pure functions, called in the browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.console.backend import Backend

Call = Callable[..., Any]


@pytest.fixture(scope="module")
def page(browser: Browser, free_port: Callable[[], int]) -> Iterator[Page]:
    backend = Backend(free_port())
    backend.start()
    page = browser.new_page(timezone_id="UTC")
    page.goto(backend.url + "format.js")
    yield page
    page.close()
    backend.stop()


@pytest.fixture
def call(page: Page) -> Call:
    """Calls `module.function(*arguments)`."""

    def go(module: str, function: str, *arguments: Any) -> Any:
        script = "async ([module, name, args]) => (await import(`./${module}.js`))[name](...args)"
        return page.evaluate(script, [module, function, list(arguments)])

    return go


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        ("bytes", None, "–"),
        ("bytes", 0, "0 B"),
        ("bytes", 2048, "2 KiB"),
        ("bytes", 91.43 * 2**20, "91.4 MiB"),
        ("bytes", 164 * 2**20, "164 MiB"),
        ("bytes", 3 * 2**30, "3.00 GiB"),
        ("latency", 0.00042, "0.42 ms"),
        ("latency", 0.0049, "4.9 ms"),
        ("latency", 0.25, "250 ms"),
        ("latency", 1.5, "1.50 s"),
        ("latency", None, "–"),
        ("duration", 12.4, "12 s"),
        ("duration", 125, "2 min 5 s"),
        ("duration", 120, "2 min"),
        ("duration", 7500, "2 h 5 min"),
        ("duration", 3 * 86400 + 7200, "3 d 2 h"),
        ("duration", -3, "0 s"),
        ("ratio", 0.9449, "0.94"),
        ("rate", 8.04, "8.0/s"),
        ("rate", 1234.5, "1235/s"),
        ("triggerName", "slo:minilm", "the latency of minilm"),
        ("triggerName", "ram", "budget ram"),
        ("variant", None, "parked"),
    ],
)
def test_formats(call: Call, function: str, value: Any, text: str) -> None:
    assert call("format", function, value) == text


def test_clock_names_the_day_when_it_is_another(call: Call) -> None:
    noon = 1_760_000_400.0  # 2025-10-09 09:00:00 UTC
    assert call("format", "clock", noon, noon + 60) == "09:00:00"
    assert call("format", "clock", noon, noon + 86400) == "2025-10-09 09:00:00"


@pytest.mark.parametrize(
    ("name", "limit", "unit"), [("slo:a", 0.1, "time"), ("ram", 2**30, "bytes"), ("cpu", 1, "share")]
)
def test_unit_of_a_budget(call: Call, name: str, limit: float, unit: str) -> None:
    assert call("format", "unitOf", name, limit) == unit


def events(page: Page, *pieces: str) -> Any:
    script = """async (pieces) => {
        const { parser } = await import("./stream.js");
        const seen = [];
        const feed = parser((event, data) => seen.push([event, data]));
        pieces.forEach(feed);
        return seen;
    }"""
    return page.evaluate(script, list(pieces))


def test_events_are_parsed_however_they_are_cut(page: Page) -> None:
    text = ': hello\r\n\r\nevent: status\r\ndata: {"a":\r\ndata: 1}\r\nid: 7\r\n\r\ndata:plain\n\nevent: empty\n\n'
    wanted = [["status", '{"a":\n1}'], ["message", "plain"]]
    assert events(page, text) == wanted
    assert events(page, *text) == wanted, "one character at a time"


def test_a_series_keeps_order_and_five_minutes(page: Page) -> None:
    script = """async () => {
        const { Series } = await import("./series.js");
        const series = new Series();
        for (const [at, value] of [[100, 1], [102, 3], [101, 2], [102, 9], [103, null]]) series.add("x", at, value);
        const all = [...series.get("x")];
        series.add("x", 402, 5);
        return [all, series.get("x"), series.get("unknown")];
    }"""
    before, after, unknown = page.evaluate(script)
    assert before == [[100, 1], [101, 2], [102, 3], [103, None]]
    assert after == [[102, 3], [103, None], [402, 5]]
    assert unknown == []


STATUS: dict[str, Any] = {
    "at": 1000.0,
    "budgets": [{"name": "ram", "state": "calm", "ratio": 0.5, "enter": 0.9, "exit": 0.75, "missing": ""}],
    "models": {
        "a": {"variant": "int8", "pinned": False, "ladder": [{"variant": "fp32"}, {"variant": "int8"}]},
        "b": {"variant": "fp32", "pinned": False, "ladder": [{"variant": "fp32"}, {"variant": "int8"}]},
    },
    "pins": {},
    "holds": [],
}


def story(
    call: Call, status: dict[str, Any], plan: Any, decisions: list[Any], complete: bool = True
) -> tuple[str, ...]:
    told = call("why", "modelStory", "a", status, plan, decisions, complete)
    return told["state"], told["why"], told["until"]


def swap(direction: str, start: str, end: str, **others: Any) -> dict[str, Any]:
    change = {"from_variant": start, "to_variant": end, "direction": direction, "trigger": "ram", "reason": "so"}
    pressures = [{"name": "ram", "ratio": 0.94}]
    return {
        "at": 950.0,
        "swaps": [{"model": "a", **change, **others}],
        "pressures": pressures,
        "outcomes": [],
        "triggers": [],
    }


def test_a_model_that_was_unloaded_is_not_said_to_run(page: Page, call: Call) -> None:
    models = {**STATUS["models"], "a": {**STATUS["models"]["a"], "unloaded": True}}
    status = {**STATUS, "models": models}
    assert story(call, status, None, [swap("degrade", "fp32", "int8")]) == (
        "unloaded",
        "Unloaded on request: what is asked of it is refused.",
        "Stays so until it is loaded. It is to run int8 then.",
    )
    told = call("why", "headline", status)
    assert (told["severity"], told["text"].partition(" Every")[0]) == ("calm", "Unloaded on request: a.")
    low = {**status, "models": {**models, "b": {**models["b"], "variant": "int8"}}}
    text = call("why", "headline", low)["text"]
    assert text.startswith("1 of 2 models runs below best: b. Unloaded on request: a. ")


DEGRADED = (
    "Degraded from fp32 to int8 at 00:15:50 because budget ram was at 0.94 of its limit (degrading starts at 0.90)."
)


def test_a_degraded_model_says_why_and_until_when(call: Call) -> None:
    done = [swap("degrade", "fp32", "int8")]
    hot = {**STATUS, "budgets": [{**STATUS["budgets"][0], "state": "scaling", "ratio": 0.8}]}
    assert story(call, hot, None, done) == (
        "degraded",
        DEGRADED,
        "Restores when budget ram has fallen to 0.75 of its limit (now 0.80).",
    )
    held = {**STATUS, "holds": [{"model": "a", "variant": "fp32", "reason": "not restored: memory: too big"}]}
    assert story(call, held, None, done)[2] == "Not restored yet: memory: too big."
    other = {**STATUS, "holds": [{"model": "b", "variant": "fp32", "reason": "cooldown: 2 s left"}]}
    assert story(call, other, None, done)[2] == "Restores after b: the last degradation is taken back first."
    plan = {
        "now": 1000.0,
        "at": 1008.0,
        "swaps": [{"model": "a", "direction": "restore", "to_variant": "fp32"}],
        "holds": [],
    }
    assert story(call, STATUS, plan, done)[2] == "Restores to fp32 in 8 s if nothing changes."
    tried = {**STATUS, "holds": [{"model": "a", "variant": "fp32", "reason": "dropped before it ran: pressure on cpu"}]}
    assert story(call, tried, {**plan, "at": 1000.0}, done)[2] == (
        "Restores to fp32 at the next tick; the last try was dropped before it ran: pressure on cpu."
    )


def test_what_no_decision_explains(call: Call) -> None:
    assert story(call, STATUS, None, [])[1] == (
        "Runs int8 since the server started: the best rungs of all models did not fit together."
    )
    assert story(call, STATUS, None, [], complete=False)[1] == (
        "Runs int8; the decision is older than those loaded here."
    )


def test_what_was_done_by_hand(call: Call) -> None:
    done = [swap("pin", "fp32", "int8", trigger="pin", reason="pinned to int8")]
    assert story(call, STATUS, None, done)[:2] == ("manual", "Moved from fp32 to int8 at 00:15:50: pinned to int8.")
    models = {"a": {**STATUS["models"]["a"], "pinned": True}}
    by_hand = {**STATUS, "models": models, "pins": {"a": "int8"}}
    assert story(call, by_hand, None, done)[::2] == ("pinned", "Pinned by hand: stays until it is unpinned.")
    assert story(call, {**by_hand, "pins": {}}, None, [])[::2] == ("pinned", "Pinned in the configuration.")


def test_a_step_back_up_is_not_called_the_best(call: Call) -> None:
    done = [swap("restore", "tiny", "int8")]
    assert (
        story(call, STATUS, None, done)[1]
        == "Restored one step, from tiny to int8 at 00:15:50; it is not on its best rung yet."
    )
