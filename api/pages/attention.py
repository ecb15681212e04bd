"""What needs a person, one line a thing, each leading to where it is mended. Says "Nothing needs you" only where every fact is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nicegui.element import Element

from api.models import OrderSummary, Part, Round, Strategy
from api.pages import formats, parts
from api.pages.desk import Desk
from api.pages.guard import ROOM
from api.pages.live import Seen
from core.trading.types import OrderStatus

Line = tuple[str, str]
"""Words, and where to go."""


class _Box:
    """Each fact writes its own lines."""

    def __init__(self) -> None:
        self._box = Element("section").classes("card attention").props('aria-label="Needs you" role="status"')
        self._lines: dict[str, list[Line]] = {}
        self._shown: list[Line] | None = None
        self.put("", [])

    def put(self, source: str, lines: list[Line]) -> None:
        self._lines[source] = lines
        every = [line for name in sorted(self._lines) for line in self._lines[name]]
        if every == self._shown:
            return
        self._shown = every
        self._box.clear()
        with self._box:
            if not every:
                parts.text("Nothing needs you.", "p", "calm")
                return
            parts.text("Needs you", "h2")
            with Element("ul"):
                for words, to in every:
                    with Element("li"):
                        parts.link(words, ROOM + to) if to else parts.text(words, "span")


async def attention(desk: Desk) -> None:
    box = _Box()

    def showing(source: str, what: str, lines: Callable[[Seen], list[Line]]) -> Callable[[Seen], None]:
        def show(seen: Seen) -> None:
            unknown = [(f"{what} not known: {seen.away}", "")] if seen.away else []
            box.put(source, unknown + (lines(seen) if seen.value is not None else []))

        return show

    for order, (fact, what, lines) in enumerate(
        (
            ("session", "The broker's session is", lambda seen: session_lines(seen.value.valid)),
            ("parts", "What is ready is", lambda seen: part_lines(seen.value)),
            ("in doubt", "Orders are", lambda seen: doubt_lines(seen.value.orders)),
            ("rounds", "What the brokers hold is", lambda seen: round_lines(seen.value.rounds)),
            ("strategies", "What runs is", lambda seen: strategy_lines(seen.value.strategies)),
            ("channels", "Whether alerts reach anybody is", lambda seen: channel_lines(seen.value.trouble)),
        )
    ):
        await desk.follow(fact, showing(f"{order} {fact}", what, lines))


def session_lines(valid: bool) -> list[Line]:
    return [] if valid else [("The broker's session is over: log in at the broker", "/risk#session")]


def part_lines(rows: Sequence[Part]) -> list[Line]:
    return [(f"{part.name}: {part.reason}", "/#parts") for part in rows if not part.ready]


_DOUBT = {
    OrderStatus.UNKNOWN: "sent without an answer; it is being looked up",
    OrderStatus.UNRESOLVED: "nobody knows what became of it: decide it",
}


def doubt_lines(orders: Sequence[OrderSummary]) -> list[Line]:
    lines = []
    for row in orders:
        what = f"{row.side} {formats.number(row.quantity)} {row.instrument} ({row.instance})"
        lines.append((f"{row.state}: {what} {_DOUBT[row.state]}", f"/order/{row.order_id}"))
    return lines


def round_lines(rounds: Sequence[Round]) -> list[Line]:
    lines = []
    for found in rounds:
        for line in found.drifting:
            name = f"{line.exchange}:{line.tradingsymbol} {line.product}"
            lines.append((f"Drift: {name} is {line.drift:+} at {found.broker} beyond what anybody did", "/risk#rounds"))
        if not found.judged:
            lines.append((f"{found.broker} was not compared with the journal: {found.why_not}", "/risk#rounds"))
    return lines


def strategy_lines(strategies: Sequence[Strategy]) -> list[Line]:
    lines = []
    for row in strategies:
        for one in row.instances:
            if one.state == "failed":
                why = one.runtime.get("reason") or one.reason or "see the log of strategy-runner"
                lines.append((f"{one.instance} failed: {why}", f"/strategies#{row.strategy_id}"))
    return lines


def channel_lines(trouble: Sequence[str]) -> list[Line]:
    return [(words, "/alerts") for words in trouble]
