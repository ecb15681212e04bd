"""Paging a list, and reading it again: one pager for all lists, and trouble said on the page until it is over."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from api.pages import listing
from api.pages.desk import Desk
from api.pages.listing import Pager
from core.errors import Transient
from tests.unit.test_pages_live import until


class Pieces:
    """Stands in for the pager's buttons and text: what is offered, what is said."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.offered: dict[str, bool] = {}
        self.press: dict[str, Callable[[], Any]] = {}
        self.where = ""
        monkeypatch.setattr(listing, "Element", lambda _: self)
        monkeypatch.setattr(listing.parts, "button", self._button)
        monkeypatch.setattr(listing.parts, "text", lambda *_: "where")
        monkeypatch.setattr(listing.parts, "offer", lambda name, there: self.offered.update({name: there}))
        monkeypatch.setattr(listing.parts, "put", lambda _, words: setattr(self, "where", words))

    def classes(self, _: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def _button(self, name: str, pressed: Callable[[], Any], _: str) -> str:
        self.press[name] = pressed
        return name


def test_a_pager_goes_back_and_forth_and_a_filter_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces, asked = Pieces(monkeypatch), []
    pager = Pager(lambda: asked.append(pager.cursor))
    pager.build()
    pager.show(None)
    assert (pieces.offered, pieces.where) == ({"Newer": False, "Older": False}, "")
    pager.show("b")
    assert (pieces.offered, pieces.where) == ({"Newer": False, "Older": True}, "Page 1")
    pieces.press["Older"]()
    pager.show("c")
    assert (pieces.offered, pieces.where) == ({"Newer": True, "Older": True}, "Page 2")
    pieces.press["Older"]()
    pager.show(None)
    pieces.press["Older"]()  # there is none
    pieces.press["Newer"]()
    assert asked == ["b", "c", "b"]
    pager.restart()
    assert (asked[-1], pager.cursor) == (None, None)


class Page:
    """A desk whose live facts are told by hand."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.changed: Callable[[object], None] = lambda _: None
        self.live = self
        self.url = self
        self.path = "/orders"
        self.desks: set[Desk] = set()
        self.gone: list[Callable[[], Any]] = []
        self.desk = Desk(cast(Any, self), cast(Any, None), cast(Any, self), cast(Any, self))
        self.desk.on_trouble = self.said.append

    def __enter__(self) -> None:
        """As the client."""

    def __exit__(self, *_: object) -> None:
        """As the client."""

    def on_delete(self, work: Callable[[], Any]) -> None:
        self.gone.append(work)

    def leave(self, _: object) -> None:
        """As the live facts."""

    async def watch(self, _: str, __: object, shown: Callable[[object], None]) -> None:
        self.changed = shown

    async def end(self) -> None:
        for work in self.gone:
            work()
        await asyncio.sleep(0)


def answers(*told: Exception | None) -> Callable[[], Awaitable[None]]:
    rest = list(told)

    async def work() -> None:
        each = rest.pop(0)
        if each is not None:
            raise each

    return work


async def test_what_keeps_a_list_from_its_rows_is_said_until_it_is_over() -> None:
    page = Page()
    await page.desk.refresh("order events", answers(None, Transient("PostgreSQL is away"), None))
    page.changed(None)
    await until(lambda: page.said)
    assert page.said == ["This page is old: PostgreSQL is away"]
    page.changed(None)
    await until(lambda: len(page.said) == 2)
    assert page.said[-1] == ""
    await page.end()


async def test_one_lists_trouble_stays_said_while_another_reads_well() -> None:
    page = Page()
    await page.desk.refresh("orders", answers(None, Transient("PostgreSQL is away")))
    broken = page.changed
    await page.desk.refresh("signals", answers(None, None))
    broken(None)
    await until(lambda: page.said)
    page.changed(None)
    await until(lambda: len(page.said) == 2)
    assert page.said == ["This page is old: PostgreSQL is away"] * 2
    await page.end()
