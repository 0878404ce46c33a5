"""A real browser before the real page; the controller behind it is real too, the machine is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.console.backend import Backend
from tests.console.chromium import ARGUMENTS, CHROMIUM

Opened = Callable[..., Page]


# Of a module and no longer: Playwright's loop must be gone before tests of other folders want theirs.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no {CHROMIUM}: apt-get install chromium")
    expect.set_options(timeout=20_000)  # a busy machine is slow, not wrong
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def backend(free_port: Callable[[], int]) -> Iterator[Backend]:
    backend = Backend(free_port())
    backend.start()
    backend.play(3)
    yield backend
    backend.stop()


@pytest.fixture
def open_page(browser: Browser, backend: Backend) -> Iterator[Opened]:
    """Opens the page in a context of its own. At the end: no request went elsewhere, no script failed, and the content
    security policy was not broken."""
    contexts = []
    problems: list[str] = []

    def request(url: str) -> None:
        if urlsplit(url).netloc != urlsplit(backend.url).netloc:
            problems.append(f"a request to {url}")

    def open_(**options: Any) -> Page:
        context = browser.new_context(timezone_id="UTC", **options)
        contexts.append(context)
        context.set_default_timeout(20_000)
        context.add_init_script(
            "document.addEventListener('securitypolicyviolation', e => console.error('CSP: ' + e.violatedDirective))"
        )
        page = context.new_page()
        page.on("request", lambda r: request(r.url))
        page.on("pageerror", lambda e: problems.append(f"script error: {e}"))
        page.on(
            "console", lambda m: problems.append(m.text) if "CSP" in m.text or "Content Security" in m.text else None
        )
        page.goto(backend.url)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert problems == []
