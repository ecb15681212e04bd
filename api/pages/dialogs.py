"""A dialog that asks before it acts: fields, a reason, a word to type. What is refused is said inside it, and nothing typed is lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any
from uuid import uuid4

from nicegui import ui
from nicegui.element import Element
from nicegui.events import GenericEventArguments

from api.pages import parts
from api.pages.desk import Desk


class Field:
    """A labelled native field: `text`, `number`, `password`, `checkbox`, `area`, or a choice among `options`."""

    def __init__(
        self,
        name: str,
        label: str,
        *,
        kind: str = "text",
        value: Any = "",
        options: Sequence[str] | Mapping[str, str] = (),
        hint: str = "",
        required: bool = False,
        **props: Any,
    ) -> None:
        self.name, self.kind, self.label, self.hint = name, kind, label, hint
        self.value: Any = value
        self._options = dict(options) if isinstance(options, Mapping) else {each: each for each in options}
        self._required, self._props = required, props

    def build(self, on_change: Callable[[], None] | None = None) -> Element:
        html_id = f"f-{uuid4().hex[:8]}"
        attrs = {name.replace("_", "-"): given for name, given in self._props.items()} | {"id": html_id}
        if self._required:
            attrs["required"] = True
        if self.kind == "text":
            attrs["autocomplete"] = "off"
        if self.hint:
            attrs["aria-describedby"] = f"{html_id}-hint"

        def changed(event: GenericEventArguments) -> None:
            self.value = event.args
            if on_change is not None:
                on_change()

        box = Element("div").classes(f"field {self.kind}")
        with box:
            parts.text(self.label, "label").props["for"] = html_id
            _Input(self.kind, self.value, self._options, attrs).on("changed", changed)
            if self.hint:
                parts.text(self.hint, "small").props["id"] = f"{html_id}-hint"
        return box


class _Input(Element, component=parts.COMPONENTS / "room_input.js"):
    """The native field itself; what is typed stays in the browser while the page changes around it."""

    def __init__(self, kind: str, value: Any, options: Mapping[str, str], attrs: Mapping[str, Any]) -> None:
        super().__init__()
        self._props["kind"] = kind
        self._props["given"] = value if isinstance(value, bool) else _plain(value)
        self._props["options"] = [{"value": each, "text": words} for each, words in options.items()]
        self._props["attrs"] = dict(attrs)


def _plain(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


MANY = 5
"""Fields a form shows one below the other; more stand in columns."""

Values = dict[str, Any]


class Question:
    """Open it with `await`; closes itself once `work` succeeded. `work(values, key)` returns what to tell the person."""

    def __init__(
        self,
        desk: Desk,
        title: str,
        work: Callable[[Values, str], Awaitable[str]],
        *,
        fields: Sequence[Field] = (),
        words: Sequence[str] = (),
        do: str,
        danger: bool = False,
        typed: str = "",
    ) -> None:
        """`typed`: a word to type, of letters, digits and dashes, without which nothing is done."""
        self._desk, self._work, self._typed = desk, work, typed
        self._fields = [*fields]
        if typed:
            told = {"pattern": rf"\s*{typed}\s*", "title": f"Type {typed}", "spellcheck": "false"}
            self._fields.append(Field("typed", f"Type {typed} to do it", required=True, **told))
        self._key = uuid4().hex
        self._busy = False
        with desk.client.layout, ui.dialog() as self._dialog, Element("div").classes("question") as box:
            box.props["role"] = "document"
            parts.text(title, "h2")
            for line in words:
                parts.text(line)
            self._extra = Element("div").classes("extra hidden")
            with Element("form") as form:
                with Element("div").classes("form" if len(self._fields) > MANY else "fields"):
                    for each in self._fields:
                        each.build()
                self._said = parts.text("", "p", "wrong")
                self._said.props["role"] = "alert"
                with Element("div").classes("choices"):
                    parts.button("Leave it", self._dialog.close)
                    act = parts.text(do, "button", f"act {'danger' if danger else 'primary'}")
                    act.props("type=submit")
            form.on("submit.prevent", self._submitted)
        self._dialog.props["aria-label"] = title
        self._dialog.on("hide", self._dialog.delete)
        self._dialog.open()

    def add(self, build: Callable[[], object]) -> None:
        """More to read, above the fields."""
        self._extra.classes(remove="hidden")
        with self._extra:
            build()

    @property
    def values(self) -> Values:
        return {each.name: each.value for each in self._fields}

    async def _submitted(self) -> None:
        if self._busy:
            return
        if self._typed and str(self.values["typed"]).strip() != self._typed:
            parts.put(self._said, f"Type {self._typed} to do it: nothing was done.")
            return
        self._busy = True
        parts.put(self._said, "")
        told, wrong = await self._desk.attempt(self._work(self.values, self._key))
        self._busy = False
        if wrong:
            parts.put(self._said, wrong)
            return
        with self._desk.client:
            self._dialog.close()
            if told:
                parts.said(told)


REASON = "Why (kept in the audit)"


def reason(required: bool = True) -> Field:
    return Field("reason", REASON, required=required, maxlength=500)
