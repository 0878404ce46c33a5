"""The operations page on the admin port of the real server, in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.console.chromium import ARGUMENTS, CHROMIUM

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"no {CHROMIUM}: apt-get install chromium")
def test_a_swap_by_click_on_the_real_server(server: Any) -> None:
    running = server.status()["models"]["alpha"]["variant"]
    other = next(r["variant"] for r in server.status()["models"]["alpha"]["ladder"] if r["variant"] != running)
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page()
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        problems: list[str] = []
        page.on("pageerror", lambda e: problems.append(str(e)))
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        page.goto(f"{server.admin_url}/ui/")
        expect(page.locator("#facts")).to_contain_text("Live")
        row = page.locator("[data-model=alpha].model")
        expect(row.locator(".rung.here b")).to_have_text(running)
        expect(page.locator("[data-budget=ram] .gauge")).to_be_visible()
        row.get_by_role("button", name="Swap alpha", exact=True).click()
        page.get_by_role("dialog").get_by_label(other).check()
        page.get_by_role("dialog").get_by_role("button", name=f"Swap alpha to {other}").click()
        expect(page.locator("#toast")).to_have_text(f"Accepted: Swap alpha to {other}.")
        # The controller restores it after half a second, so what it ran is asked of the timeline.
        expect(page.locator("#decisions")).to_contain_text(f"Moved alpha from {running} to {other}")
        expect(page.locator("#decisions")).to_contain_text("Swap done in")
        page.get_by_role("button", name="Pin alpha", exact=True).click()
        page.get_by_role("dialog").get_by_label(other).check()
        page.get_by_role("dialog").get_by_role("button", name=f"Pin alpha to {other}").click()
        server.wait("the pin", server.settled_on("alpha", other))
        expect(row.locator(".rung.here b")).to_have_text(other)
        expect(row.locator(".why")).to_contain_text("Pinned by hand")
        page.get_by_role("button", name="Unpin alpha", exact=True).click()
        page.get_by_role("dialog").get_by_role("button", name="Unpin alpha").click()
        server.wait("the way back", server.settled_on("alpha", running))
        expect(row.locator(".rung.here b")).to_have_text(running)
        browser.close()
    assert problems == []
