"""Today: is all well, what did we make, what needs a person, and the switch that stops everything. Understood within five seconds."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from typing import Any

from nicegui.element import Element

from api.models import InstanceStatus, PositionList, Strategy
from api.pages import formats, kill_panel, parts
from api.pages.attention import attention
from api.pages.day_curve import day_curve
from api.pages.desk import Desk
from api.pages.facts import by_instance
from api.pages.guard import ROOM
from api.pages.live import Seen
from api.pages.page import Page
from api.pages.parts import Column, Figure, Row, Table, cell, chip
from api.pages.target import banner
from api.pages.well import well
from core.storage.risk_config import RiskConfig


async def build(desk: Desk) -> None:
    parts.text(banner(desk.room.settings).text, "p", "quiet")
    await attention(desk)
    await _money(desk)
    await _strategies(desk)
    with Element("div").classes("columns"):
        await kill_panel.build(desk)
        await well(desk)


# money --------------------------------------------------------------------------------------------------------------------


async def _money(desk: Desk) -> None:
    with parts.card("Money", "money") as box:
        away = parts.text("", "p", "wrong")
        boxes: dict[str, tuple[Figure, Figure, Figure]] = {}
        for broker in desk.room.settings.active_brokers:
            with Element("div").classes("figures"):
                parts.text(broker.value, "h3")
                boxes[broker.value] = (Figure("Net PnL"), Figure("Gross"), Figure("Charges"))

        def show(seen: Seen) -> None:
            parts.put(away, f"These figures are old: {seen.away}" if seen.away else "")
            parts.old(box, bool(seen.away))
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
    with parts.card("Strategies") as box:
        away = parts.text("", "p", "wrong")
        table = Table("Strategies", _COLUMNS, empty="No strategy yet. Make one on the page Strategies.")
    known: dict[str, Seen] = {}

    def show(name: str) -> Any:
        def put(seen: Seen) -> None:
            known[name] = seen
            why = next((one.away for one in known.values() if one.away), "")
            parts.put(away, f"These figures are old: {why}" if why else "")
            parts.old(box, bool(why))
            if "strategies" in known and known["strategies"].value is not None:
                table.show(_rows({each: one.value for each, one in known.items()}))

        return put

    for name in ("positions", "pnl", "limits", "strategies"):
        await desk.follow(name, show(name))


def _rows(known: dict[str, Any]) -> list[Row]:
    """What is not known is a dash, never a nought."""
    held = _held(known["positions"]) if known.get("positions") else None
    money = by_instance(known["pnl"]) if known.get("pnl") else None
    rows = []
    for strategy in known["strategies"].strategies:
        for one in strategy.instances:
            position = formats.NONE if held is None else ", ".join(held.get(one.instance, ())) or "flat"
            net = None if money is None else money[one.instance].day_net_pnl if one.instance in money else Decimal(0)
            rows.append(_row(strategy, one, position, net, known.get("limits")))
    return rows


def _held(found: PositionList) -> dict[str, list[str]]:
    held: dict[str, list[str]] = defaultdict(list)
    for row in found.positions:
        if row.quantity:
            held[row.instance].append(f"{row.tradingsymbol} {formats.signed(row.quantity)}")
    return held


def _row(
    strategy: Strategy, instance: InstanceStatus, position: str, net: Decimal | None, limits: RiskConfig | None
) -> Row:
    why = instance.reason or str(instance.runtime.get("reason") or "")
    return Row(
        instance.instance,
        (
            cell(strategy.strategy_id, to=f"{ROOM}/strategies#{strategy.strategy_id}"),
            cell(instance.broker.value, more="" if instance.target == instance.broker.value else instance.target),
            chip(instance.state, STATES.get(instance.state, "plain")) | ({"more": why} if why else {}),
            parts.when(parts.moment(instance.runtime.get("last_bar_end"))),
            cell(position),
            parts.gain(net),
            _room(strategy.strategy_id, instance, net, limits),
        ),
    )


STATES = {"running": "good", "warming": "warn", "failed": "bad", "inactive": "plain"}


def _room(strategy_id: str, instance: InstanceStatus, net: Decimal | None, limits: RiskConfig | None) -> parts.Cell:
    if limits is None or net is None:
        return cell(formats.NONE)
    most = limits.limits(strategy_id, instance.broker).strategy.max_day_loss
    left = max(most + net, Decimal(0))
    tone = "down" if left <= 0 else "warn" if left < most / 4 else ""
    return cell(formats.rupees(left), tone, more="" if left else "no more entries today", order=float(left))


PAGE = Page("/", "Today", build)
