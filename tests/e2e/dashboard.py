"""A person at the dashboard in a real Chromium: logs in, looks, and shows what is on the screen."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from docker.prerequisites import ROOT, browser
from tests.fixtures.system import System

T = TypeVar("T")
IMAGES = ROOT / "docs" / "images"
SECOND = 1_000
"""Playwright counts in milliseconds."""

WHY = "Why (kept in the audit)"

DRAWN = """() => (getElement(document.querySelector(".chart.tall"))?.chart?.getOption()?.series ?? []).map(
    (one) => [one.name, one.data.length, (one.markLine?.data ?? []).map((line) => line.yAxis)])"""
"""What a chart shows: name, points and lines of each series."""
LOWEST = """() => getElement(document.querySelector(".chart.tall")).chart.getModel().getComponent("yAxis").axis.scale.getExtent()[0]"""
"""The lowest price on a chart's axis."""

SERIOUS = {"serious", "critical"}


def apart(work: Callable[[], T]) -> T:
    """Run it on a thread of its own: playwright holds this thread's event loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


@contextmanager
def chromium() -> Iterator[Browser]:
    program = browser()
    assert program is not None, "no Chromium here: `make test` installs or names it"
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield started
        finally:
            started.close()


class Person:
    """One browser window of one logged-in user. What its pages complain about is kept in `complaints`."""

    def __init__(self, browser: Browser, system: System, *, phone: bool = False, dark: bool = False) -> None:
        size = {"width": 390, "height": 844} if phone else {"width": 1360, "height": 850}
        self.context = browser.new_context(
            viewport=size,  # type: ignore[arg-type]
            color_scheme="dark" if dark else "light",
            timezone_id="Asia/Kolkata",
            reduced_motion="reduce",
        )
        self.page: Page = self.context.new_page()
        self.base = f"http://127.0.0.1:{system.settings.api_port}"
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda said: self._heard(said.type, said.text))

    def _heard(self, kind: str, words: str) -> None:
        if kind == "error":
            self.complaints.append(words)

    def log_in(self, name: str, password: str) -> None:
        self.page.goto(self.base)
        self.page.get_by_label("Name").fill(name)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Log in").click()
        expect(self.page.get_by_role("heading", name="Today", level=1)).to_be_visible(timeout=15 * SECOND)

    def open(self, path: str) -> Page:
        self.page.goto(f"{self.base}/room{path}")
        expect(self.page.locator("h1")).to_be_visible(timeout=15 * SECOND)
        return self.page

    def place(self, strategy: str, instrument: str, quantity: int, *, limit: str = "", why: str) -> None:
        """Ask for a BUY entry on paper, in the dialog of Orders; what comes of it shows there."""
        page = self.open("/orders")
        page.get_by_role("button", name="Place an order").click()
        page.get_by_label("Belongs to strategy").select_option(strategy)
        page.get_by_label("Instrument", exact=True).last.fill(instrument)
        page.get_by_label("Quantity (units)").fill(str(quantity))
        if limit:
            page.get_by_label("Order type").select_option("LIMIT")
            page.get_by_label("Limit price (₹)").fill(limit)
        page.get_by_label(WHY).fill(why)
        page.get_by_role("button", name="Place it").click()

    def picture(self, name: str) -> None:
        """Kept in docs/images where PICTURES=1 asks for it."""
        if os.environ.get("PICTURES") == "1":
            IMAGES.mkdir(exist_ok=True)
            self.page.screenshot(path=IMAGES / f"room-{name}.png", full_page=False)

    def hindrances(self) -> list[str]:
        """What axe-core finds serious on this page: rule, and where."""
        found: list[dict[str, Any]] = Axe().run(self.page).response["violations"]
        return [
            f"{one['id']}: {', '.join(str(node['target']) for node in one['nodes'][:4])}"
            for one in found
            if one["impact"] in SERIOUS
        ]

    def close(self) -> None:
        self.context.close()
