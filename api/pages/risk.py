"""Limits against their use, what the broker and the journal agree on, and the broker's session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import uuid4

from nicegui.element import Element

from api.models import Position
from api.pages import formats, parts
from api.pages.desk import Desk
from api.pages.dialogs import Field, Question, Values, reason
from api.pages.facts import by_instance
from api.pages.live import Seen
from api.pages.page import Page
from api.pages.parts import Act, Cell, Column, Row, Table, cell
from api.pages.schema_form import fields_of, values_of
from api.routers import operations, strategy_changes
from api.routers.operations import LogIn, LogOut, RunNow
from api.routers.strategy_changes import SetLimits
from control import broker_session
from core.storage.risk_config import RiskConfig
from core.storage.risk_use import LimitUse
from core.trading.risk.limits import MODELS, AccountLimits, RiskLimits, Scope
from core.trading.types import Broker

_LIMITS = (
    Column("Whose"),
    Column("Broker"),
    Column("Lost today", "num"),
    Column("Open orders", "num"),
    Column("Entries today", "num"),
    Column("Largest position", "num"),
    Column("An order at most", "num"),
    Column("", sorts=False),
)
_ROUNDS = (
    Column("Instrument"),
    Column("Broker"),
    Column("At the broker", "num"),
    Column("Ours", "num"),
    Column("Not ours", "num"),
    Column("Drift", "num"),
)


async def build(desk: Desk) -> None:
    await _limits(desk)
    await _rounds(desk)
    await _session(desk)


# limits -------------------------------------------------------------------------------------------------------------------


async def _limits(desk: Desk) -> None:
    async def acted(key: str, _: str) -> None:
        scope, _, name = key.split("|")[0].partition(":")
        await _ask_limits(desk, Scope(scope), name)

    with parts.card("Limits against use") as box:
        parts.text("They bind entries only: an exit always may go. A change counts within 5 seconds.", "p", "quiet")
        wrong = parts.text("", "p", "wrong")
        table = Table(
            "Limits", _LIMITS, empty="No strategy yet. Make one on Strategies; its limits stand here.", on_act=acted
        )
    facts = ("limits", "pnl", "limit use", "positions", "strategies")
    known: dict[str, Seen] = {}

    def put(name: str) -> Any:
        def show(seen: Seen) -> None:
            known[name] = seen
            away = next((one.away for one in known.values() if one.away), "")
            parts.put(wrong, f"These figures are old: {away}" if away else "")
            parts.old(box, bool(away))
            values = {each: one.value for each, one in known.items() if one.value is not None}
            if len(values) == len(facts):
                table.show(_rows(desk, values))

        return show

    for name in facts:
        await desk.follow(name, put(name))


def _rows(desk: Desk, known: dict[str, Any]) -> list[Row]:
    config: RiskConfig = known["limits"]
    money = by_instance(known["pnl"])
    totals = {row.broker: row.total for row in known["pnl"].brokers}
    held = _largest(known["positions"].positions)
    change = (Act("change", "Change …"),) if desk.may(strategy_changes.set_limits) else ()
    rows = []
    for broker in desk.room.settings.active_brokers:
        limits = config.limits("", broker).account
        lost = -totals[broker].day_net_pnl if broker in totals else Decimal(0)
        used = sum(known["limit use"].get(broker, {}).values(), LimitUse())
        use = _use(lost, used, limits)
        most = (cell(formats.NONE), parts.amount(limits.max_order_value), parts.acts(*change))
        rows.append(Row(f"account:{broker}", (cell("whole account"), cell(broker.value), *use, *most)))
    for strategy in known["strategies"].strategies:
        for one in strategy.instances:
            own = config.limits(strategy.strategy_id, one.broker).strategy
            lost = -money[one.instance].day_net_pnl if one.instance in money else Decimal(0)
            use = _use(lost, known["limit use"].get(one.broker, {}).get(one.instance, LimitUse()), own)
            position = against(Decimal(held[one.instance]), Decimal(own.max_position), formats.number)
            most = (position, parts.amount(own.max_order_value), parts.acts(*change))
            head = (cell(strategy.strategy_id), cell(one.broker.value))
            rows.append(Row(f"strategy:{strategy.strategy_id}|{one.broker}", (*head, *use, *most)))
    return rows


def _largest(positions: Sequence[Position]) -> Counter[str]:
    """By instance, the most units it holds of one instrument and product."""
    held: Counter[str] = Counter()
    for row in positions:
        held[row.instance] = max(held[row.instance], abs(row.quantity))
    return held


def _use(lost: Decimal, used: LimitUse, most: RiskLimits | AccountLimits) -> tuple[Cell, Cell, Cell]:
    return (
        against(max(lost, Decimal(0)), most.max_day_loss, formats.rupees),
        against(Decimal(used.open_orders), Decimal(most.max_open_orders), formats.number),
        against(Decimal(used.entries), Decimal(most.max_trades_a_day), formats.number),
    )


def against(used: Decimal, most: Decimal, written: Callable[[Decimal], str]) -> Cell:
    """`₹1,204.00 of ₹5,000.00`; what is near or reached is told in words too. Sorted by the share that is used."""
    share = used / most if most else Decimal(1)
    tone, more = ("down", "reached") if share >= 1 else ("warn", "near") if share * 4 >= 3 else ("", "")
    return cell(f"{written(used)} of {written(most)}", tone, more=more, order=float(share))


async def _ask_limits(desk: Desk, scope: Scope, name: str) -> None:
    model = MODELS[scope]
    found, wrong = await desk.attempt(strategy_changes.limits(scope, name, desk.room.links))
    if wrong:
        return parts.said(wrong, bad=True)

    async def work(values: Values, key: str) -> str:
        asked = SetLimits(limits=values_of(model, values), reason=values["reason"])
        row = await desk.ask(strategy_changes.set_limits, scope, name, asked, key=key)
        desk.room.live.touch("limits")
        return f"Limits of {name} are set (version {row.version}). They count within 5 seconds."

    fields: list[Field] = [*fields_of(model, found.effective), reason()]
    words = [
        "Of each of its instances alone." if scope is Scope.STRATEGY else "Of all strategies on this broker together."
    ]
    Question(desk, f"Limits of {name}", work, words=words, fields=fields, do="Set limits")


# reconciliation -----------------------------------------------------------------------------------------------------------


async def _rounds(desk: Desk) -> None:
    with parts.card("Compared with the broker") as box:
        box.props["id"] = "rounds"
        parts.text(
            "Broker = ours + not ours (made in the Kite app) + drift. Each broker every minute by itself.", "p", "quiet"
        )
        lines = Element("div")
        table = Table("What differs or is held", _ROUNDS, empty="Nothing is held anywhere, and nothing differs.")
        with Element("div").classes("choices"):
            for broker in desk.room.settings.active_brokers if desk.may(operations.run) else ():
                parts.button(f"Compare {broker} now", partial(_run, desk, broker), "small")
    told: list[Any] = [None]

    def show(seen: Seen) -> None:
        rounds = seen.value.rounds if seen.value else []
        words = [(_line(one), not one.judged or bool(one.drifting)) for one in rounds] or [("Not compared yet.", False)]
        if words != told[0]:
            told[0] = words
            lines.clear()
            with lines:
                for text, bad in words:
                    parts.text(text, "p", "wrong" if bad else "")
        table.show([_compared(one.broker, line) for one in rounds for line in one.lines])

    await desk.follow("rounds", show)


def _line(one: Any) -> str:
    at = f"{one.broker} at {formats.clock(one.finished_at)}: "
    if not one.judged:
        return f"{at}not judged: {one.why_not}"
    mended = [
        f"{number} {what}"
        for number, what in (
            (one.late_fills, "late fills booked"),
            (len(one.adopted), "rows adopted"),
            (len(one.started_again), "workflows started again"),
            (one.foreign_orders_count, "orders that are not ours"),
        )
        if number
    ]
    drift = f"{len(one.drifting)} DRIFTING" if one.drifting else "no drift"
    return at + ", ".join([drift, *mended, *one.trouble])


def _compared(broker: Broker, line: Any) -> Row:
    drift = cell("not known", "warn") if line.drift is None else parts.count(line.drift, "down" if line.drift else "")
    name = f"{line.exchange}:{line.tradingsymbol}"
    head = (cell(name, more=line.product), cell(broker.value))
    figures = (parts.count(line.broker), parts.count(line.ours), parts.count(line.foreign), drift)
    return Row(f"{broker}|{name}|{line.product}", (*head, *figures), "bad" if line.drift else "")


async def _run(desk: Desk, broker: Broker) -> None:

    asked = RunNow(broker=broker, reason="asked on Risk")
    parts.said(f"Asked {broker} for its book, trades and positions.")
    answer, wrong = await desk.attempt(desk.ask(operations.run, asked, key=uuid4().hex, wait=20.0))
    desk.room.live.touch("rounds")
    with desk.client:
        if wrong:
            parts.said(wrong, bad=True)
        elif answer.round is None:
            parts.said("Asked for; the round comes by itself.")
        else:
            parts.said(_line(answer.round), bad=bool(answer.round.drifting))


# the broker's session -----------------------------------------------------------------------------------------------------


async def _session(desk: Desk) -> None:
    with parts.card("The broker's session") as box:
        box.props["id"] = "session"
        with Element("div").classes("choices"):
            state = parts.text("", "span", "chip")
            line = parts.text("", "span", "quiet")
        with Element("div").classes("choices"):
            may = desk.may(operations.log_in)
            log_in = parts.button("Log in …", lambda: _ask_log_in(desk), "small")
            log_out = parts.button("Log out …", lambda: _ask_log_out(desk), "small")
            parts.offer(log_in, may)
            parts.offer(log_out, may)

    def show(seen: Seen) -> None:
        found = seen.value
        valid = found is not None and found.valid
        parts.put(state, "logged in" if valid else "not logged in", f"chip {'good' if valid else 'bad'}")
        words = (
            f"{found.user_id} on {found.target}, until {formats.clock(found.expires_at)}"
            if valid
            else "broker calls and prices wait"
        )
        parts.put(line, words)

    await desk.follow("session", show)


def _ask_log_in(desk: Desk) -> None:
    session = broker_session.state(desk.room.settings)

    async def work(values: Values, key: str) -> str:
        asked = LogIn(redirect=values["redirect"].strip() or None, reason=values["reason"])
        await desk.ask(operations.log_in, asked, key=key)
        desk.room.live.touch("session")
        return "Logged in at the broker."

    words = (
        ["On the local sandbox nothing is needed: it is logged in to by itself."]
        if session.simulated
        else [
            f"1. Open {session.login_url} and log in there.",
            "2. Bring back the whole address the browser ended on: it is good once.",
        ]
    )
    fields = [Field("redirect", "The address the browser ended on", kind="password"), reason(required=False)]
    Question(desk, "Log in at the broker", work, words=words, fields=fields, do="Log in")


def _ask_log_out(desk: Desk) -> None:
    async def work(values: Values, key: str) -> str:
        await desk.ask(operations.log_out, LogOut(reason=values["reason"]), key=key)
        desk.room.live.touch("session")
        return "Logged out at the broker."

    words = ["Broker calls and prices wait from now on; nothing stops."]
    Question(desk, "Log out at the broker", work, words=words, fields=[reason()], do="Log out", danger=True)


PAGE = Page("/risk", "Risk", build)
