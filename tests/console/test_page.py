"""The operations page in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.console.backend import TOKEN, Backend
from tests.console.stage import MIB, Stage, TwoGroups

Opened = Callable[..., Page]
PHONE = {"width": 390, "height": 844}


def neighbour(mib: int) -> Callable[[Stage], None]:
    return lambda stage: setattr(stage, "neighbour", mib * MIB)


def degrade(backend: Backend) -> None:
    """A neighbour comes: ram goes past 0.9 of its limit, docstring-topic and minilm are degraded."""
    backend.play(4, neighbour(130))


def test_what_is_shown_is_what_the_controller_says(open_page: Opened, backend: Backend) -> None:
    page = open_page()
    status = backend.stage.controller.answers.status()
    ram = next(b for b in status["budgets"] if b["name"] == "ram")
    card = page.locator("[data-budget=ram]")
    expect(card).to_contain_text(f"{ram['ratio']:.2f}")
    expect(card).to_contain_text("of 1.00 GiB")
    expect(card.locator(".gauge")).to_have_attribute(
        "aria-label", f"ram: {ram['ratio']:.2f}; degrading starts at 0.90 and ends at 0.75"
    )
    minilm = page.locator("[data-model=minilm].model")
    expect(minilm.locator(".rung")).to_have_count(4)
    expect(minilm.locator(".rung.here")).to_have_text(re.compile(r"fp32.*1\.000.*164 MiB.*17\.0 ms", re.S))
    expect(minilm.locator(".live")).to_contain_text("p99")
    expect(minilm.locator(".live")).to_contain_text("of 100 ms")
    expect(page.locator("#headline")).to_have_text("All 4 models run as wanted. Every budget and objective is calm.")
    expect(page.locator("#hosts")).to_contain_text("default-0")


def test_a_model_that_was_unloaded_is_marked(open_page: Opened, backend: Backend) -> None:
    page = open_page()
    row = page.locator("[data-model=wine].model")
    expect(row.locator(".chip")).to_have_text("best rung")
    backend.play(1, lambda stage: stage.unloaded.add("wine"))
    expect(row.locator(".chip")).to_have_text("unloaded")
    expect(row.locator(".rung.here")).to_have_text(re.compile("unloaded.*not in memory"))
    expect(row.locator(".why")).to_contain_text("Unloaded on request")
    expect(page.locator("#headline").get_by_role("link", name="wine")).to_be_visible()
    backend.play(1, lambda stage: stage.unloaded.clear())
    expect(row.locator(".rung.here")).to_contain_text("fp32")


def test_a_newcomer_sees_why_a_model_was_degraded(open_page: Opened, backend: Backend) -> None:
    page = open_page()
    expect(page.locator("[data-model=docstring-topic] .why")).to_have_count(0)
    degrade(backend)
    row = page.locator("[data-model=docstring-topic].model")
    expect(row.locator(".rung.here")).to_contain_text("int8")
    made = next(d for d in backend.stage.lines if d.plan.swaps)
    at = page.evaluate("at => new Date(at * 1000).toISOString().slice(11, 19)", made.at)
    ratio = next(p.ratio for p in made.pressures if p.name == "ram")
    expect(row.locator(".why strong")).to_have_text(
        f"Degraded from fp32 to int8 at {at} because budget ram was at {ratio:.2f} of its limit (degrading starts at 0.90)."
    )
    expect(row.locator(".why")).to_contain_text("Restores when budget ram has fallen to 0.75 of its limit (now 0.")
    expect(page.locator("#headline")).to_contain_text(
        "1 of 4 models runs below best: docstring-topic. Budget ram is scaling"
    )
    assert page.title() == "● degraded · trimtab"

    row.get_by_role("button", name="Numbers").click()
    numbers = page.locator("#decisions details[open]")
    expect(numbers).to_contain_text("0.913 → 0.909 (−0.004)")
    expect(numbers).to_contain_text("74.0 MiB")
    expect(numbers.get_by_role("region", name="What was seen")).to_contain_text("0.90 / 0.75")


def test_on_a_phone_the_reason_is_one_tap_away(open_page: Opened, backend: Backend) -> None:
    page = open_page(viewport=PHONE)
    degrade(backend)
    why = page.locator("[data-model=docstring-topic] .why")
    expect(why).to_contain_text("because budget ram was at")
    expect(why).not_to_be_in_viewport()
    page.locator("#headline").get_by_role("link", name="docstring-topic").click()
    expect(why).to_be_in_viewport(ratio=1)


def test_it_follows_events_as_they_come(open_page: Opened, backend: Backend) -> None:
    page = open_page()
    expect(page.locator("[data-budget=ram]")).to_contain_text("calm")
    reads = sum(path.endswith("/status") for _, path, _ in backend.seen)
    degrade(backend)
    expect(page.locator("[data-budget=ram] .chip")).to_have_text("scaling")
    expect(page.locator("#decisions .line.degrade").first).to_contain_text("Degraded docstring-topic from fp32 to int8")
    expect(page.locator("#news")).to_contain_text("Swap done")  # told to screen readers
    backend.play(20, neighbour(0))
    expect(page.locator("[data-budget=ram] .chip")).to_have_text("calm")
    expect(page.locator("[data-model=docstring-topic] .why")).to_contain_text(
        "Runs its best rung, restored from int8 at"
    )
    assert sum(path.endswith("/status") for _, path, _ in backend.seen) == reads, "it polled"


def test_a_trend_is_drawn_and_told(open_page: Opened, backend: Backend) -> None:
    backend.play(20, lambda s: setattr(s, "wobble", 0.0))
    page = open_page()
    card = page.locator("[data-budget=ram]")
    expect(card.locator(".trend")).to_have_text("steady")
    for step in range(1, 11):
        backend.play(1, neighbour(4 * step))
    expect(card.locator(".trend")).to_have_text(re.compile(r"^↗ [\d.]+ MiB/s, full in \d+ s$|^↗ .* full in \d+ min"))
    filled, ahead = (float(card.locator(f".gauge .{c}").get_attribute("width")[:-1]) for c in ("fill", "ahead"))  # type: ignore[index]
    ram = next(b for b in backend.stage.controller.answers.status()["budgets"] if b["name"] == "ram")
    assert filled == pytest.approx(100 * ram["ratio"] / 1.15, abs=0.1)
    assert ahead == pytest.approx(100 * 30 * ram["slope"] / ram["limit"] / 1.15, abs=0.1)
    assert card.locator(".spark path").get_attribute("d").count("L") >= 10  # type: ignore[union-attr]


def test_a_fresh_page_has_a_past(open_page: Opened, backend: Backend) -> None:
    for step in range(6):
        backend.play(1, lambda s, step=step: s.controller.orders.pin("wine", ("int8", "fp32")[step % 2]))  # type: ignore[misc]
    path = open_page().locator("[data-budget=ram] .spark path")
    expect(path).to_have_attribute("d", re.compile(r"^M[\d.-]+ [\d.]+(L[\d.-]+ [\d.]+){5,}"))


def test_next_and_why_not_yet(open_page: Opened, backend: Backend) -> None:
    degrade(backend)
    backend.play(8, neighbour(100))
    page = open_page()
    expect(page.locator("#next")).to_contain_text("docstring-topic → fp32: not yet")
    expect(page.locator("#next")).to_contain_text("ram is scaling")
    backend.play(2, lambda s: s.missing.add("ram"))
    expect(page.locator("[data-budget=ram]")).to_contain_text("no reading: its endpoint does not answer")
    expect(page.locator("[data-model=docstring-topic] .why")).to_contain_text(
        "no reading: its endpoint does not answer"
    )


def test_a_swap_by_click_is_confirmed_first(open_page: Opened, backend: Backend) -> None:
    page = open_page()
    row = page.locator("[data-model=minilm].model")
    row.get_by_role("button", name="int8: quality 0.997").first.click()
    dialog = page.get_by_role("dialog", name="Swap minilm")
    expect(dialog).to_contain_text("fp32 → int8: quality −0.003, gives back 73.0 MiB a host, median 17.0 ms → 4.9 ms.")
    assert not [path for method, path, _ in backend.seen if method == "POST"]
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_be_hidden()
    row.get_by_role("button", name="Swap minilm", exact=True).click()
    dialog.get_by_label("bf16").check()
    dialog.get_by_role("button", name="Swap minilm to bf16").click()
    expect(page.locator("#toast")).to_have_text("Accepted: Swap minilm to bf16.")
    posts = [(path, body) for method, path, body in backend.seen if method == "POST"]
    assert posts == [("/admin/v1/swap", {"model": "minilm", "variant": "bf16"})]
    backend.play(2)
    expect(row.locator(".rung.here")).to_contain_text("bf16")


def test_pin_unpin_and_park(open_page: Opened, backend: Backend) -> None:
    page = open_page()
    row = page.locator("[data-model=wine].model")
    for action, button, body in (
        ("pin", "Pin wine to int8", {"model": "wine", "variant": "int8"}),
        ("unpin", "Unpin wine", {"model": "wine"}),
        ("park", "Park wine", {"model": "wine"}),
    ):
        row.get_by_role("button", name=f"{action.capitalize()} wine", exact=True).click()
        if action == "pin":
            page.get_by_role("dialog").get_by_label("int8").check()
        page.get_by_role("dialog").get_by_role("button", name=button).click()
        expect(page.get_by_role("dialog")).to_be_hidden()
        assert ("POST", f"/admin/v1/{action}", body) in backend.seen
        backend.play(2)
    expect(row.locator(".chip")).to_have_text("parked")
    expect(row.locator(".rung.here")).to_have_text("parkednot in memory")
    expect(row.locator(".why")).to_contain_text("Pinned by hand: stays until it is unpinned.")


def test_a_refusal_is_shown_where_the_question_was(open_page: Opened, backend: Backend) -> None:
    backend.refusal = (409, "<b>minilm</b> is pinned by hand; unpin it first")
    page = open_page()
    page.get_by_role("button", name="Swap minilm", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Swap minilm to bf16").click()
    expect(dialog.get_by_role("alert")).to_have_text(
        "The server refused: <b>minilm</b> is pinned by hand; unpin it first"
    )
    backend.refusal = None
    dialog.get_by_role("button", name="Swap minilm to bf16").click()
    expect(dialog).to_be_hidden()


def test_a_failed_swap_and_its_quarantine(open_page: Opened, backend: Backend) -> None:
    page = open_page()
    backend.play(3, lambda s: (s.refuses.add(("digits-vit", "int8")), s.controller.orders.pin("digits-vit", "int8"))[0])
    failed = page.locator("#decisions .line.failed").first
    expect(failed).to_contain_text("Swap rolled back, digits-vit: fp32 → int8: canary: outputs differ by 0.31")
    row = page.locator("[data-model=digits-vit].model")
    # The day too, when the quarantine ends tomorrow: just before midnight it does.
    until = r"(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d"
    expect(row).to_contain_text(re.compile(rf"int8 is quarantined until {until}: .*outputs differ by 0.31"))
    page.get_by_role("button", name="Clear the quarantine of digits-vit int8").click()
    page.get_by_role("dialog").get_by_role("button", name="Clear the quarantine").click()
    expect(page.locator("#toast")).to_have_text("Accepted: Clear the quarantine.")
    assert ("POST", "/admin/v1/quarantine/clear", {"model": "digits-vit", "variant": "int8"}) in backend.seen
    backend.play(1, lambda s: (s.refuses.clear(), s.controller.orders.unpin("digits-vit"))[0])
    expect(row).not_to_contain_text("quarantined")


def test_it_reconnects_and_catches_up(open_page: Opened, backend: Backend) -> None:
    page = open_page()
    expect(page.locator("#facts")).to_contain_text("Live")
    backend.stop()
    banner = page.locator("#banner")
    expect(banner).to_contain_text("Connection lost")
    expect(banner).to_contain_text("What is shown is old.")
    expect(page.locator("#facts")).to_contain_text("Not connected")
    expect(banner.get_by_role("button", name="Try now")).to_be_visible()
    backend.start()
    degrade(backend)  # possibly before the page is back: then it learns of it from the list
    expect(banner).to_be_empty()
    expect(page.locator("#decisions .line.degrade").first).to_contain_text("Degraded docstring-topic")
    expect(page.locator("#facts")).to_contain_text("Live")


def test_a_token_is_asked_for_and_kept_in_the_tab_only(open_page: Opened, backend: Backend) -> None:
    backend.token = TOKEN
    page = open_page()
    field = page.get_by_label("Bearer token")
    expect(field).to_be_focused()
    expect(page.locator("#page")).to_be_hidden()
    field.fill("wrong")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#signin-error")).to_have_text("the token is not known")
    field.fill(TOKEN)
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("[data-model=minilm].model")).to_be_visible()
    expect(page.locator("#signin")).to_be_hidden()
    assert TOKEN not in json.dumps(page.evaluate("[{...localStorage}, document.cookie, location.href]"))
    page.reload()
    expect(page.locator("[data-model=minilm].model")).to_be_visible()
    page.get_by_role("button", name="Forget token").click()
    expect(field).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0


def test_a_token_that_may_not_read_is_asked_for_anew(open_page: Opened, backend: Backend) -> None:
    backend.refusal = (403, "the token's role is infer; this needs read")
    page = open_page()
    expect(page.locator("#signin-error")).to_have_text("the token's role is infer; this needs read")
    backend.refusal = None
    page.get_by_label("Bearer token").fill("of an operator")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("[data-model=minilm].model")).to_be_visible()


def test_the_controllers_own_trouble_is_shown(open_page: Opened, backend: Backend) -> None:
    page = open_page()

    def lose_the_source(stage: Stage) -> None:
        async def read(now: float, hosts: Any) -> Any:
            raise OSError("no route to prometheus")

        stage.read = read  # type: ignore[method-assign]

    backend.play(1, lose_the_source)
    expect(page.locator("#banner")).to_contain_text("last tick failed: OSError: no route to prometheus")


def test_older_decisions_are_fetched_until_a_model_is_explained(open_page: Opened, backend: Backend) -> None:
    degrade(backend)
    for _ in range(60):  # each changes a pin, so each is a line of the journal
        backend.play(1, lambda s: s.controller.orders.pin("wine", "fp32"))
        backend.play(1, lambda s: s.controller.orders.unpin("wine"))
    assert len(backend.stage.lines) > 100
    page = open_page()
    expect(page.locator("[data-model=docstring-topic] .why strong")).to_contain_text("because budget ram was at")
    page.get_by_label("waiting, too").check()
    expect(page.locator("#decisions details").first).to_be_visible()
    shown = page.locator("#decisions details").count()
    assert shown > 100


def test_the_list_can_be_narrowed_to_one_model(open_page: Opened, backend: Backend) -> None:
    degrade(backend)
    backend.play(4, neighbour(240))
    page = open_page()
    expect(page.locator("#decisions .line.degrade").first).to_be_visible()
    both = page.locator("#decisions .line.degrade").all_inner_texts()
    page.get_by_label("Show decisions about").select_option("minilm")
    about = page.locator("#decisions .line.degrade").all_inner_texts()
    assert about == [text for text in both if "minilm" in text]
    assert 0 < len(about) < len(both)


def test_focus_and_what_is_open_survive_updates(open_page: Opened, backend: Backend) -> None:
    degrade(backend)
    page = open_page()
    page.locator("#decisions summary").first.click()
    opened = page.locator("#decisions details[open]").get_attribute("id")
    button = page.get_by_role("button", name="Park minilm")
    button.focus()
    backend.play(6, neighbour(240))
    expect(page.locator("#decisions .line.degrade").first).to_contain_text("Degraded")
    expect(button).to_be_focused()
    assert page.locator("#decisions details[open]").get_attribute("id") == opened


def test_it_works_by_keyboard_alone(open_page: Opened, backend: Backend) -> None:
    page = open_page()
    expect(page.locator("[data-model=minilm].model")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the budgets")).to_be_focused()
    page.get_by_role("button", name="Park wine").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Park wine")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_role("button", name="Park wine")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(open_page: Opened, backend: Backend, scheme: str) -> None:
    degrade(backend)
    backend.play(3, lambda s: s.controller.orders.pin("wine", "int8"))
    page = open_page(color_scheme=scheme)
    expect(page.locator("#decisions .line.degrade").first).to_be_visible()
    backend.play(3)
    page.locator("#decisions summary").first.click()
    assert violations(page) == []
    page.get_by_role("button", name="Swap minilm", exact=True).click()
    assert violations(page) == []
    page.keyboard.press("Escape")
    backend.stop()
    expect(page.locator("#banner")).to_contain_text("Connection lost")
    assert violations(page) == []


def violations(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [
        f"{v['id']} ({v['impact']}): {node['target']}: {node['failureSummary']}" for v in found for node in v["nodes"]
    ]


def test_the_theme_follows_the_system_until_one_is_chosen(open_page: Opened, backend: Backend) -> None:
    page = open_page(color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.get_by_role("button", name="Theme: auto").click()
    light = page.evaluate(ground)
    assert light != dark
    page.reload()
    expect(page.get_by_role("button", name="Theme: light")).to_be_visible()
    assert page.evaluate(ground) == light
    page.get_by_role("button", name="Theme: light").click()
    assert page.evaluate(ground) == dark


def test_a_phone_scrolls_down_only(open_page: Opened, backend: Backend) -> None:
    degrade(backend)
    page = open_page(viewport=PHONE, is_mobile=True, has_touch=True)
    expect(page.locator("#decisions .line.degrade").first).to_be_visible()
    page.locator("#decisions summary").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    page.get_by_role("button", name="Swap minilm", exact=True).click()
    box = page.get_by_role("dialog").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= PHONE["width"]


def test_the_browser_enforces_the_policy(browser: Browser, backend: Backend) -> None:
    page = browser.new_page()
    page.goto(backend.url)
    broken = page.evaluate(
        """async () => {
            const seen = [];
            document.addEventListener("securitypolicyviolation", (e) => seen.push(e.effectiveDirective));
            document.body.setAttribute("style", "color: red");
            await fetch("http://127.0.0.2:9/").catch(() => {});
            try { document.body.innerHTML = "<p>x</p>"; } catch {}
            const script = document.createElement("script");
            try { script.textContent = "window.broken = true"; document.head.append(script); } catch {}
            await new Promise((resolve) => setTimeout(resolve, 100));
            return [seen, window.broken ?? false];
        }"""
    )
    page.context.close()
    assert broken[1] is False
    assert {"style-src-attr", "connect-src", "require-trusted-types-for"} <= set(broken[0])


def test_links_to_grafana_only_where_it_is_configured(
    open_page: Opened, backend: Backend, free_port: Callable[[], int]
) -> None:
    page = open_page()
    expect(page.locator("[data-model=minilm].model")).to_be_visible()
    expect(page.get_by_role("link", name="Grafana")).to_have_count(0)
    other = Backend(free_port(), grafana="https://grafana.example.org")
    other.start()
    try:
        other.play(2)
        second = page.context.browser.new_page()  # type: ignore[union-attr]
        second.goto(other.url)
        link = second.get_by_role("link", name="Grafana: minilm")
        expect(link).to_have_attribute("href", "https://grafana.example.org/d/trimtab-models?var-model=minilm")
        second.context.close()
    finally:
        other.stop()


@pytest.fixture
def groups(free_port: Callable[[], int]) -> Iterator[Backend]:
    backend = Backend(free_port(), stage=TwoGroups)
    backend.start()
    backend.play(3)
    yield backend
    backend.stop()


def test_host_groups_are_told_apart(browser: Browser, groups: Backend) -> None:
    """Memory is short in one of two groups: its gauge, its ladder and its decisions say so, and the other's do not."""
    page = browser.new_page(timezone_id="UTC", viewport={"width": 1440, "height": 1000})
    page.goto(groups.url)
    expect(page.locator("#headline")).to_have_text("All 4 models run as wanted. Every budget and objective is calm.")
    expect(page.locator("#budgets h3.group")).to_have_text(["Group default 1 host", "Group small 1 host"])
    groups.play(6, lambda stage: setattr(stage.small, "neighbour", 130 * MIB))
    expect(page.locator("[data-budget='small/ram'] .chip")).to_have_text("scaling")
    expect(page.locator("[data-budget=ram] .chip")).to_have_text("calm")
    expect(page.locator("#headline")).to_contain_text(
        "1 of 4 models runs below best: docstring-topic (group small). Budget ram of group small is scaling"
    )
    model = page.locator("[data-model=docstring-topic].model")
    assert model.get_by_role("button", name=re.compile("^Pin")).count() == 1  # an order is for all groups
    small, other = model.locator("[data-group=small]"), model.locator("[data-group=default]")
    expect(small.locator(".rung.here")).to_contain_text("int8")
    expect(small.locator(".why strong")).to_contain_text("because budget ram was at")
    expect(other.locator(".rung.here")).to_contain_text("fp32")
    expect(other.locator(".why")).to_have_count(0)
    expect(page.locator("#next")).to_contain_text("Group small")
    expect(page.locator("#hosts")).to_contain_text("small-0")
    degraded = page.locator("#decisions li", has=page.locator(".line.degrade"))
    expect(degraded).to_have_count(1)
    expect(degraded.locator(".chip.group")).to_have_text("small")

    small.get_by_role("button", name="Numbers").click()
    expect(page.locator("#decisions details[open]")).to_contain_text("0.913 → 0.909 (−0.004)")
    assert Axe().run(page).violations_count == 0
    page.close()
