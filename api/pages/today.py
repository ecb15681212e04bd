"""Today: is all well, what did we make, what needs a person, and the switch that stops everything. Understood within five seconds."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from decimal import Decimal
from typing import Any

from nicegui.element import Element

from api.models import InstanceStatus, PositionList, Strategy
from api.pages import formats, kill_panel, parts
from api.pages.day_curve import day_curve
from api.pages.desk import Desk
from api.pages.facts import by_instance
from api.pages.guard import ROOM
from api.pages.live import Seen
from api.pages.page import Page
from api.pages.parts import Column, Figure, Row, Table, cell, chip
from api.pages.target import banner
from core.clock import utc_now
from core.storage.risk_config import RiskConfig
from core.trading.types import OrderStatus

FRESH_S = 5.0
"""A feed that is older is told in minutes and in red."""


async def build(desk: Desk) -> None:
    parts.text(banner(desk.room.settings).text, "p", "quiet")
    await _attention(desk)
    await _money(desk)
    await _strategies(desk)
    with Element("div").classes("columns"):
        await kill_panel.build(desk)
        await _well(desk)


# what needs a person ------------------------------------------------------------------------------------------------------


class _Attention:
    """One line a thing that needs a person; each fact writes its own lines."""

    def __init__(self) -> None:
        self._box = Element("section").classes("card attention").props('aria-label="Needs you" role="status"')
        self._lines: dict[str, list[tuple[str, str]]] = {}
        self._shown: list[tuple[str, str]] | None = None
        self.put("", [])

    def put(self, source: str, lines: list[tuple[str, str]]) -> None:
        """(words, where to go) of one fact."""
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


async def _attention(desk: Desk) -> None:
    box = _Attention()

    def show_parts(seen: Seen) -> None:
        box.put("1 parts", [(f"{part.name}: {part.reason}", "/#parts") for part in seen.value or () if not part.ready])

    def show_orders(seen: Seen) -> None:
        if seen.away:
            return box.put("2 orders", [(f"Orders are not known: {seen.away}", "")])
        lost = [row for row in seen.value.orders if row.state in {OrderStatus.UNKNOWN, OrderStatus.UNRESOLVED}]
        said = {
            OrderStatus.UNKNOWN: "sent without an answer; it is being looked up",
            OrderStatus.UNRESOLVED: "nobody knows what became of it: decide it",
        }
        box.put(
            "2 orders",
            [
                (
                    f"{row.state}: {row.side} {row.quantity} {row.instrument} ({row.instance}) {said[row.state]}",
                    f"/order/{row.order_id}",
                )
                for row in lost
            ],
        )

    def show_rounds(seen: Seen) -> None:
        lines = []
        for found in seen.value.rounds if seen.value else ():
            for line in found.drifting:
                name = f"{line.exchange}:{line.tradingsymbol} {line.product}"
                lines.append((f"Drift: {name} is {line.drift:+} at {found.broker} beyond what anybody did", "/risk"))
            if not found.judged:
                lines.append((f"{found.broker} was not compared with the journal: {found.why_not}", "/risk"))
        box.put("3 rounds", lines)

    def show_session(seen: Seen) -> None:
        state = seen.value
        good = state is not None and state.valid
        box.put("0 session", [] if good else [("The broker's session is over: log in at the broker", "/risk#session")])

    await desk.follow("parts", show_parts)
    await desk.follow("open orders", show_orders)
    await desk.follow("rounds", show_rounds)
    await desk.follow("session", show_session)


# money --------------------------------------------------------------------------------------------------------------------


async def _money(desk: Desk) -> None:
    with Element("section").classes("card money"):
        parts.text("Money", "h2")
        away = parts.text("", "p", "wrong")
        boxes: dict[str, tuple[Figure, Figure, Figure]] = {}
        for broker in desk.room.settings.active_brokers:
            with Element("div").classes("figures"):
                parts.text(broker.value, "h3")
                boxes[broker.value] = (Figure("Net PnL"), Figure("Gross"), Figure("Charges"))

        def show(seen: Seen) -> None:
            parts.put(away, f"These figures are old: {seen.away}" if seen.away else "")
            for row in seen.value.brokers if seen.value else ():
                total, (net, gross, charges) = row.total, boxes[row.broker.value]
                open_ = f"{total.open_positions} open" + (
                    f", {total.unmarked} without a price" if total.unmarked else ""
                )
                net.show(formats.gain(total.day_net_pnl), formats.tone(total.day_net_pnl), open_)
                gross.show(formats.gain(total.day_gross_pnl), formats.tone(total.day_gross_pnl))
                charges.show(formats.rupees(total.day_charges))

        await desk.follow("pnl", show)
        await day_curve(desk)


# strategies ---------------------------------------------------------------------------------------------------------------

_COLUMNS = (
    Column("Strategy"),
    Column("Broker"),
    Column("State"),
    Column("Last bar", "num"),
    Column("Position"),
    Column("Net today", "num"),
    Column("Room to loss limit", "num"),
)


async def _strategies(desk: Desk) -> None:
    with parts.card("Strategies"):
        table = Table("Strategies", _COLUMNS, empty="No strategy yet. Make one on the page Strategies.")
    known: dict[str, Any] = {}

    def show(name: str) -> Any:
        def put(seen: Seen) -> None:
            known[name] = seen.value
            if known.get("strategies") is not None:
                table.show(_rows(known))

        return put

    for name in ("positions", "pnl", "limits", "strategies"):
        await desk.follow(name, show(name))


def _rows(known: dict[str, Any]) -> list[Row]:
    held = _held(known.get("positions"))
    money = by_instance(known["pnl"]) if known.get("pnl") else {}
    return [
        _row(strategy, instance, held.get(instance.instance, []), money.get(instance.instance), known.get("limits"))
        for strategy in known["strategies"].strategies
        for instance in strategy.instances
    ]


def _held(found: PositionList | None) -> dict[str, list[str]]:
    held: dict[str, list[str]] = defaultdict(list)
    for row in found.positions if found else ():
        if row.quantity:
            held[row.instance].append(f"{row.tradingsymbol} {formats.signed(row.quantity)}")
    return held


def _row(strategy: Strategy, instance: InstanceStatus, held: list[str], pnl: Any, limits: RiskConfig | None) -> Row:
    net = pnl.day_net_pnl if pnl else Decimal(0)
    last = instance.runtime.get("last_bar_end")
    why = instance.reason or str(instance.runtime.get("reason") or "")
    return Row(
        instance.instance,
        (
            cell(strategy.strategy_id, to=f"{ROOM}/strategies#{strategy.strategy_id}"),
            cell(instance.broker.value, more="" if instance.target == instance.broker.value else instance.target),
            chip(instance.state, STATES.get(instance.state, "plain")) | ({"more": why} if why else {}),
            parts.when(datetime.fromisoformat(last) if last else None),
            cell(", ".join(held) or "flat"),
            parts.gain(net),
            _room(strategy.strategy_id, instance, net, limits),
        ),
    )


STATES = {"running": "good", "warming": "warn", "failed": "bad", "inactive": "plain"}


def _room(strategy_id: str, instance: InstanceStatus, net: Decimal, limits: RiskConfig | None) -> parts.Cell:
    if limits is None:
        return cell(formats.NONE)
    most = limits.limits(strategy_id, instance.broker).strategy.max_day_loss
    left = max(most + net, Decimal(0))
    tone = "down" if left <= 0 else "warn" if left < most / 4 else ""
    return cell(formats.rupees(left), tone, more="" if left else "no more entries today", order=float(left))


# is all well --------------------------------------------------------------------------------------------------------------


async def _well(desk: Desk) -> None:
    with parts.card("Is all well?") as box:
        box.props["id"] = "parts"
        rows: dict[str, Element] = {}
        with Element("dl").classes("facts"):
            for name in ("Parts", "Prices", "Broker session", "Orders left today", "Compared with the broker"):
                parts.text(name, "dt")
                rows[name] = parts.text(formats.NONE, "dd")

    def show_parts(seen: Seen) -> None:
        bad = [part for part in seen.value or () if not part.ready]
        words = (
            f"all {len(seen.value or ())} ready" if not bad else "; ".join(f"{one.name}: {one.reason}" for one in bad)
        )
        parts.put(rows["Parts"], words, "bad" if bad else "")

    def show_feed(seen: Seen) -> None:
        if seen.value is None:
            parts.put(rows["Prices"], seen.away or "no tick since this page was opened", "warn")
            return
        age = (utc_now() - seen.value).total_seconds()
        words = (
            "arriving" if age < FRESH_S else f"none for {formats.span(age)}; the last at {formats.clock(seen.value)}"
        )
        parts.put(rows["Prices"], words, "" if age < FRESH_S else "bad")

    def show_session(seen: Seen) -> None:
        state = seen.value
        if state is None or not state.valid:
            parts.put(rows["Broker session"], "none: log in at the broker", "bad")
            return
        until = formats.clock(state.expires_at)
        parts.put(rows["Broker session"], f"{state.user_id} on {state.target} until {until}", "")

    def show_budget(seen: Seen) -> None:
        if seen.value is None:
            parts.put(rows["Orders left today"], f"not known: {seen.away}", "warn")
            return
        words = [
            f"{broker}: {'no limit' if one.left is None else formats.number(one.left)} ({formats.number(one.sent)} sent)"
            for broker, one in seen.value.items()
        ]
        empty = any(one.left == 0 for one in seen.value.values())
        parts.put(rows["Orders left today"], "; ".join(words), "bad" if empty else "")

    def show_rounds(seen: Seen) -> None:
        found = seen.value.rounds if seen.value else ()
        words = [
            f"{one.broker} at {formats.clock(one.finished_at)}: "
            + ("not judged" if not one.judged else f"{len(one.drifting)} drifting" if one.drifting else "no drift")
            for one in found
        ]
        bad = any(not one.judged or one.drifting for one in found)
        parts.put(rows["Compared with the broker"], "; ".join(words) or "not yet", "bad" if bad else "")

    await desk.follow("parts", show_parts)
    await desk.follow("feed", show_feed)
    await desk.follow("session", show_session)
    await desk.follow("budget", show_budget)
    await desk.follow("rounds", show_rounds)


PAGE = Page("/", "Today", build)
