"""A filtered list, a page at a time: the newest first, back and forth by cursor, changing in place. What is read, its page says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from nicegui.element import Element

from api.pages import parts
from api.pages.desk import Desk
from api.pages.dialogs import Field
from api.pages.parts import Column, Row, Table
from core.trading.types import Broker

SHOWN = 50
"""Rows of a page."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A page of a list. `next` is the cursor of the following one, None on the last; `empty` is said where there is no row."""

    rows: Sequence[Row]
    next: str | None
    empty: str


Read = Callable[[str | None], Awaitable[Listed]]
"""(cursor of the page, None for the first) → the page."""


class Pager:
    """Where one stands in a list that is read by cursor. `ask` reads that page again."""

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._cursors: list[str | None] = [None]
        self._following: str | None = None

    @property
    def cursor(self) -> str | None:
        return self._cursors[-1]

    def build(self) -> None:
        with Element("div").classes("choices"):
            self._newer = parts.button("Newer", self._go_newer, "small hidden")
            self._older = parts.button("Older", self._go_older, "small hidden")
            self._where = parts.text("", "span", "quiet")

    def show(self, following: str | None) -> None:
        """`following`: the cursor of the next page, if there is one."""
        self._following = following
        number = len(self._cursors)
        parts.offer(self._newer, number > 1)
        parts.offer(self._older, following is not None)
        parts.put(self._where, f"Page {number}" if number > 1 or following else "")

    def restart(self) -> None:
        """To the newest: what is asked for has changed."""
        self._cursors = [None]
        self._ask()

    def _go_newer(self) -> None:
        if len(self._cursors) > 1:
            self._cursors.pop()
            self._ask()

    def _go_older(self) -> None:
        if self._following is not None:
            self._cursors.append(self._following)
            self._ask()


class Listing:
    """Filters, a table and its pager. `read` is called for the page one stands on, and sees the filters as they are then."""

    def __init__(self, label: str, columns: Sequence[Column], filters: Sequence[Field], read: Read) -> None:
        self._read = read
        self._again: Callable[[], None] = lambda: None
        self._pager = Pager(lambda: self._again())
        with Element("section").classes("card") as box:
            box.props["aria-label"] = label
            with Element("div").classes("filters"):
                for each in filters:
                    each.build(self._pager.restart)
            self._table = Table(label, columns, empty="")
            self._pager.build()

    async def follow(self, desk: Desk, fact: str) -> None:
        """Read it now and whenever the fact changes."""
        self._again = await desk.refresh(fact, self._load)

    async def _load(self) -> None:
        page = await self._read(self._pager.cursor)
        self._table.show(page.rows, empty=page.empty)
        self._pager.show(page.next)


def broker_filter(desk: Desk) -> Field:
    names = {broker.value: broker.value for broker in desk.room.settings.active_brokers}
    return Field("broker", "Broker", options={"": "any"} | names)


def strategy_filter(given: str = "") -> Field:
    return Field("strategy", "Strategy", value=given, placeholder="any")


def instrument_filter() -> Field:
    return Field("instrument", "Instrument", placeholder="NSE:INFY")


def broker_of(field: Field) -> Broker | None:
    return Broker(field.value) if field.value else None


def text_of(field: Field) -> str | None:
    """What was typed, None for nothing."""
    return str(field.value).strip() or None


def instrument_of(field: Field) -> str | None:
    typed = text_of(field)
    return typed.upper() if typed else None
