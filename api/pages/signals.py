"""What strategies and people wanted, and what risk made of it: an order, or every reason against it."""

from __future__ import annotations

from api.pages import formats, parts
from api.pages.desk import Desk
from api.pages.dialogs import Field
from api.pages.guard import ROOM
from api.pages.listing import (
    SHOWN,
    Listed,
    Listing,
    broker_filter,
    broker_of,
    instrument_filter,
    instrument_of,
    strategy_filter,
    text_of,
)
from api.pages.page import Page
from api.pages.parts import Column, Row, cell, chip
from api.routers import happenings
from api.routers.happenings import DecidedSignal

_COLUMNS = (
    Column("Decided"),
    Column("Signal"),
    Column("Decision"),
    Column("Why", "wide"),
    Column("Strategy"),
    Column("Broker"),
)
_DECISIONS = {"": "accepted and rejected", "yes": "accepted", "no": "rejected"}


def _row(one: DecidedSignal) -> Row:
    signal = one.signal
    price = f" @ {formats.price(signal.price)}" if signal.price is not None else ""
    what = f"{signal.side} {formats.number(signal.quantity)} {signal.instrument} {signal.order_type}{price}"
    why = "; ".join(f"{denial.code}: {denial.message}" for denial in one.denials)
    by_hand = "" if signal.source == "strategy" else "by hand"
    return Row(
        str(signal.signal_id),
        (
            parts.when(one.decided_at),
            cell(
                what,
                to=f"{ROOM}/order/{one.order_id}" if one.order_id else "",
                more=f"{signal.intent.lower()} · {signal.reason}",
            ),
            chip("accepted", "good") if one.accepted else chip("rejected", "bad"),
            cell(why or formats.NONE),
            cell(signal.strategy_id, more=by_hand),
            cell(one.broker.value),
        ),
    )


async def build(desk: Desk) -> None:
    chosen = desk.request.query_params.get("decision", "")
    broker, strategy, instrument = broker_filter(desk), strategy_filter(), instrument_filter()
    decision = Field("decision", "Decision", options=_DECISIONS, value=chosen if chosen in _DECISIONS else "")

    async def read(cursor: str | None) -> Listed:
        page = await happenings.signals(
            desk.room.reads,
            broker=broker_of(broker),
            accepted={"": None, "yes": True, "no": False}[decision.value],
            strategy=text_of(strategy),
            instrument=instrument_of(instrument),
            cursor=cursor,
            limit=SHOWN,
        )
        empty = "No signal fits. A running strategy signals once its bars are warm and its rule says so."
        return Listed([_row(one) for one in page.signals], page.next, empty)

    await Listing("Signals", _COLUMNS, (decision, broker, strategy, instrument), read).follow(desk, "signals")


PAGE = Page("/signals", "Signals", build)
