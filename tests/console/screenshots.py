"""The pictures in docs/: `python -m tests.console.screenshots FOLDER`. The state: a neighbour has taken memory, two models
were degraded for it, one is pinned by hand."""

from __future__ import annotations

import io
import socket
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.console.backend import Backend
from tests.console.chromium import ARGUMENTS, CHROMIUM
from tests.console.stage import MIB, Stage

VIEWS = {"light": ("light", 1440, 1000), "dark": ("dark", 1440, 1000), "phone": ("light", 390, 844)}


def pinned(stage: Stage) -> None:
    stage.controller.orders.pin("wine", "int8")


def main(folder: Path) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    backend = Backend(port, grafana="https://grafana.example.org")
    backend.start()
    backend.play(30)
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        pages = {}
        for name, (scheme, width, height) in VIEWS.items():
            context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": height})  # type: ignore[arg-type]
            pages[name] = context.new_page()
            pages[name].goto(backend.url)
            pages[name].wait_for_selector("[data-model=minilm] h3")
        backend.play(80)
        backend.play(40, pinned)
        for step in range(1, 26):
            backend.play(1, lambda stage, step=step: setattr(stage, "neighbour", step * 8 * MIB))  # type: ignore[misc]
        backend.play(40)
        for name, page in pages.items():
            page.wait_for_timeout(2500)  # the dry run is asked for every two seconds
            backend.play(1)
            page.wait_for_timeout(500)
            if name != "phone":
                page.locator(".line.degrade").first.click()
                page.evaluate("document.activeElement.blur()")
            picture = Image.open(io.BytesIO(page.screenshot(full_page=name != "phone")))
            picture.convert("RGB").quantize(255).save(folder / f"operations-{name}.png", optimize=True)
        browser.close()
    backend.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
