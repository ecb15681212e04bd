"""The pieces pages are made of: tables that change in place, figures, chips, buttons. No piece reads or acts by itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from nicegui import ui
from nicegui.element import Element
from nicegui.events import GenericEventArguments

from api.pages import formats

COMPONENTS = Path(__file__).parent / "components"
HOLD_S = 1.5


@dataclass(frozen=True, slots=True)
class Column:
    """`kind`: `num` for figures, `wide` for text that wraps. Sorted in the browser, among the rows there are."""

    title: str
    kind: str = ""
    sorts: bool = True


@dataclass(frozen=True, slots=True)
class Act:
    """A button in a row. `aria` says what it does to what."""

    name: str
    text: str
    aria: str = ""
    tone: str = ""


Cell = dict[str, Any]


def cell(text: object, tone: str = "", *, to: str = "", hint: str = "", more: str = "", order: object = None) -> Cell:
    """`to` links, `hint` shows under a pointer, `more` is a small second line, `order` what it is sorted by."""
    given = {"text": str(text), "tone": tone, "to": to, "hint": hint, "more": more, "order": order}
    return {name: value for name, value in given.items() if value not in ("", None) or name == "text"}


def chip(text: str, tone: str = "") -> Cell:
    return {"text": text, "chip": tone or "plain"}


def gain(value: Decimal | None) -> Cell:
    return cell(formats.gain(value), formats.tone(value), order=float(value) if value is not None else None)


def amount(value: Decimal | None) -> Cell:
    return cell(formats.rupees(value), order=float(value) if value is not None else None)


def price(value: Decimal | None) -> Cell:
    return cell(formats.price(value), order=float(value) if value is not None else None)


def count(value: int, tone: str = "") -> Cell:
    return cell(formats.number(value), tone, order=value)


def when(at: Any) -> Cell:
    return cell(formats.clock(at), hint=formats.moment(at), order=at.timestamp() if at is not None else 0)


def moment(text: object) -> datetime | None:
    """A time as JSON has it."""
    return datetime.fromisoformat(str(text)) if text else None


def acts(*given: Act) -> Cell:
    shown = [{name: getattr(one, name) for name in ("name", "text", "aria", "tone")} for one in given]
    return {"text": "", "acts": shown} if shown else {"text": ""}


@dataclass(frozen=True, slots=True)
class Row:
    key: str
    cells: Sequence[Cell]
    tone: str = ""


class Table(Element, component=COMPONENTS / "live_table.js"):
    """Only what changed is sent; nothing where nothing did."""

    def __init__(
        self,
        label: str,
        columns: Sequence[Column],
        *,
        empty: str,
        stack: bool = True,
        on_act: Callable[[str, str], Awaitable[None]] | None = None,
    ) -> None:
        """`stack`: rows become cards at phone width, else the table scrolls sideways. `on_act(row key, act)`."""
        super().__init__()
        self._props["columns"] = [
            {"title": one.title, "kind": one.kind, "sorts": one.sorts and bool(one.title)} for one in columns
        ]
        self._props["rows"] = []
        self._props["empty"] = empty
        self._props["label"] = label
        self._props["stack"] = stack
        if on_act is not None:
            told = on_act

            async def asked(event: GenericEventArguments) -> None:
                await told(str(event.args["key"]), str(event.args["act"]))

            self.on("act", asked)

    def show(self, rows: Sequence[Row], *, empty: str | None = None) -> None:
        shown = [{"key": row.key, "cells": list(row.cells), "tone": row.tone} for row in rows]
        if shown == self._props["rows"] and empty in (None, self._props["empty"]):
            return
        self._props["rows"] = shown
        if empty is not None:
            self._props["empty"] = empty
        self.update()


class HoldButton(Element, component=COMPONENTS / "hold_button.js"):
    """Acts after it was held for HOLD_S seconds."""

    def __init__(self, text: str, on_held: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self._props["text"] = text
        self._props["seconds"] = HOLD_S

        async def held(_: GenericEventArguments) -> None:
            await on_held()

        self.on("held", held)


def text(words: str = "", tag: str = "p", classes: str = "") -> Element:
    """A piece of plain text in its own HTML element; `put` changes it."""
    made = Element(tag)
    made._text = words
    if classes:
        made.classes(classes)
    return made


def put(element: Element, words: str, classes: str | None = None) -> None:
    """Change a text, and its classes where given; sends nothing where both are the same."""
    if element._text != words:
        element._text = words
        element.update()
    if classes is not None and element.classes != classes.split():
        element.classes(replace=classes)


def hint(element: Element, words: str) -> None:
    """What shows where a pointer rests."""
    if element.props.get("title") != words:
        element.props["title"] = words


def card(title: str, classes: str = "") -> Element:
    """A section with its heading. Use as a context."""
    made = Element("section").classes(f"card {classes}".strip())
    with made:
        text(title, "h2")
    return made


class Figure:
    """A figure with its name: `Net PnL today  +₹1,204.00`, and a small line."""

    def __init__(self, name: str) -> None:
        with Element("div").classes("figure"):
            text(name, "div", "name")
            self._value = text(formats.NONE, "div", "value")
            self._more = text("", "div", "more")

    def show(self, value: str, tone: str = "", more: str = "") -> None:
        put(self._value, value, f"value {tone}".strip())
        put(self._more, more)


def offer(element: Element, there: bool) -> None:
    """Show it, or hide it."""
    element.classes(remove="hidden") if there else element.classes(add="hidden")


def old(element: Element, is_old: bool) -> None:
    """Dim what it holds, but for what is said about it: these figures are not of now."""
    if is_old != ("old" in element.classes):
        element.classes(add="old") if is_old else element.classes(remove="old")


def button(words: str, on_click: Callable[[], Any], tone: str = "", *, aria: str = "") -> Element:
    made = text(words, "button", f"act {tone}".strip())
    made.props("type=button")
    if aria:
        made.props["aria-label"] = aria
    made.on("click", on_click)
    return made


def link(words: str, to: str, classes: str = "") -> Element:
    made = text(words, "a", classes)
    made.props["href"] = to
    return made


def said(words: str, *, bad: bool = False) -> None:
    """Tell the person what became of what they asked; what went wrong stays until it is closed."""
    ui.notify(
        words,
        color="trouble" if bad else "done",
        position="bottom-right",
        timeout=0 if bad else 5000,
        close_button="Close" if bad else False,
        multi_line=len(words) > 80,
    )
