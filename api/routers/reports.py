"""PnL over the day, tables as CSV, the log's streams, and the settings: nothing secret in any of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import Field, SecretStr

from api import curve
from api.auth import needs
from api.curve import CurveMark
from api.deps import ReadsDep, SettingsDep
from api.models import SIMULATED, Answer, TopicStatus
from api.problems import guarded
from api.reads import Reads
from api.routers.orders import Moment
from core.clock import day_began, trading_day, utc_now
from core.config import Settings
from core.errors import Transient
from core.messaging import lag
from core.people.roles import Role
from core.storage import views
from core.storage.view_pnl import minutes_of_day
from core.storage.views import OrderFilter, StoredEvent
from core.trading.types import Broker

router = APIRouter(dependencies=[needs(Role.VIEWER)])

EXPORTED = 10_000
"""Rows of an export at most; ask for a later `since` to get the rest."""

OneBroker = Annotated[Broker | None, Query(description="One broker; all active ones without it.")]


# PnL over the day ------------------------------------------------------------------------------------------------------


class CurvePoint(Answer):
    """After one fill: what the instance's fills of the day have made, in rupees."""

    at: datetime
    instance: str
    realized_pnl: Decimal = Field(description="Gross.")
    charges: Decimal
    net_pnl: Decimal


class PnlCurve(Answer):
    """The day twice: what fills realised, step by step, and what all was worth, minute by minute, with what is open at its mark."""

    trading_day: date
    simulated: bool = Field(description=SIMULATED)
    points: list[CurvePoint] = Field(description="By time, one a fill; each instance's own running sums.")
    marks: list[CurveMark] = Field(
        description="By time, one a minute in which a price moved or a fill came, of each instance and of each broker's whole; the "
        "last of today is now."
    )


@router.get("/pnl/day", tags=["portfolio"], summary="PnL over the trading day", responses=guarded())
async def pnl_day(
    reads: ReadsDep,
    broker: OneBroker = None,
    day: Annotated[date | None, Query(description="A trading day (it rolls at 06:00 IST); today without it.")] = None,
    step: Annotated[int, Query(ge=1, le=60, description="Minutes between two `marks`.")] = 1,
) -> PnlCurve:
    """Each strategy instance's realised steps, and its worth over the day: gross, charges and net. `marks` go back 90 days.

    A position carried over night counts from its average price, not from yesterday's close.
    """
    wanted = day or trading_day(utc_now())
    points: list[CurvePoint] = []
    marks: list[CurveMark] = []
    for one in reads.brokers(broker):
        points += _curve(await views.fills_of_day(reads.views(one), wanted))
        found = list(curve.marks(one, await minutes_of_day(reads.views(one), wanted), timedelta(minutes=step)))
        marks += found + await _now(reads, one, wanted, found)
    points.sort(key=lambda point: point.at)
    marks.sort(key=lambda mark: mark.at)
    return PnlCurve(trading_day=wanted, simulated=reads.settings.simulated, points=points, marks=marks)


async def _now(reads: Reads, broker: Broker, day: date, before: list[CurveMark]) -> list[CurveMark]:
    """What came after the last minute on record; nothing where Redis, which alone knows, is away: the curve ends earlier then."""
    last = {mark.instance: mark.at for mark in before}
    try:
        (report,) = (await reads.pnl(broker=broker)).brokers
    except Transient:
        return []
    found = [view for view in (*report.instances, report.total) if view.trading_day == day]
    live = [view for view in found if view.instance in last or view.open_positions or view.day_charges]
    return [curve.now(broker, view) for view in live if view.as_of > last.get(view.instance, day_began(day))]


def _curve(fills: Iterable[StoredEvent]) -> list[CurvePoint]:
    sums: dict[str, tuple[Decimal, Decimal]] = {}
    points = []
    rows = sorted(fills, key=lambda event: (event.data["fill"]["filled_at"], event.data["fill"]["trade_id"]))
    for event in rows:
        fill, instance = event.data["fill"], event.data["order"]["instance"]
        realized, charges = sums.get(instance, (Decimal(0), Decimal(0)))
        realized, charges = realized + Decimal(str(fill["realized_pnl"])), charges + Decimal(str(fill["charges"]))
        sums[instance] = (realized, charges)
        points.append(
            CurvePoint(
                at=fill["filled_at"],
                instance=instance,
                realized_pnl=realized,
                charges=charges,
                net_pnl=realized - charges,
            )
        )
    return points


# exports ----------------------------------------------------------------------------------------------------------------

CSV: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/csv": {"schema": {"type": "string"}}}, "description": "One row a line, titles first."}
}


@router.get(
    "/exports/orders.csv",
    tags=["portfolio"],
    summary="Orders as CSV",
    response_class=Response,
    responses=CSV | guarded(),
)
async def export_orders(
    reads: ReadsDep,
    broker: OneBroker = None,
    since: Annotated[Moment | None, Query(description="Created at or after.")] = None,
) -> Response:
    """Newest first, 10,000 at most."""
    page = await reads.orders(OrderFilter(since=since), broker=broker, limit=EXPORTED)
    return _csv("orders", [row.model_dump(mode="json") for row in page.orders])


@router.get(
    "/exports/fills.csv",
    tags=["portfolio"],
    summary="A day's fills as CSV",
    response_class=Response,
    responses=CSV | guarded(),
)
async def export_fills(
    reads: ReadsDep,
    broker: OneBroker = None,
    day: Annotated[date | None, Query(description="A trading day; today without it.")] = None,
) -> Response:
    """With price, charges and what each realised."""
    rows: list[dict[str, Any]] = []
    for one in reads.brokers(broker):
        for event in await views.fills_of_day(reads.views(one), day or trading_day(utc_now())):
            order, fill = event.data["order"], event.data["fill"]
            named = {name: order[name] for name in ("order_id", "instance", "instrument", "side", "product")}
            rows.append({"broker": one.value} | named | fill)
    rows.sort(key=lambda row: (row["filled_at"], row["trade_id"]))
    return _csv("fills", rows)


@router.get(
    "/exports/positions.csv",
    tags=["portfolio"],
    summary="Positions as CSV",
    response_class=Response,
    responses=CSV | guarded(),
)
async def export_positions(reads: ReadsDep, broker: OneBroker = None) -> Response:
    """As they are now, flat ones too."""
    found = await reads.positions(broker=broker)
    return _csv("positions", [row.model_dump(mode="json") for row in found.positions])


@router.get(
    "/exports/pnl.csv",
    tags=["portfolio"],
    summary="A day's PnL as CSV",
    response_class=Response,
    responses=CSV | guarded(),
)
async def export_pnl(
    reads: ReadsDep,
    broker: OneBroker = None,
    day: Annotated[date | None, Query(description="A trading day; today without it.")] = None,
    step: Annotated[int, Query(ge=1, le=60, description="Minutes between two rows.")] = 1,
) -> Response:
    """Each instance and each broker's whole (`*`), minute by minute: realised, unrealised, gross, charges and net."""
    found = await pnl_day(reads, broker, day, step)
    return _csv("pnl", [mark.model_dump(mode="json") for mark in found.marks])


def _csv(name: str, rows: Sequence[dict[str, Any]]) -> Response:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    headers = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
    return Response(text.getvalue(), media_type="text/csv; charset=utf-8", headers=headers)


def _cell(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula is kept text (owasp.org, CSV injection); numbers stay numbers."""
    if not isinstance(value, str) or value[:1] not in {"=", "+", "-", "@", "\t", "\r"}:
        return value
    try:
        Decimal(value)
    except ArithmeticError:
        return f"'{value}"
    return value


# the log and the settings -------------------------------------------------------------------------------------------------


class PartitionLag(Answer):
    """What one group has not committed of one partition."""

    group: str
    topic: str
    partition: int
    committed: int
    end: int
    lag: int


class Streams(Answer):
    topics: list[TopicStatus]
    lag: list[PartitionLag]


@router.get("/streams", tags=["operations"], summary="The log's topics and who is behind", responses=guarded())
async def streams(reads: ReadsDep) -> Streams:
    """Partitions, ends, dead letters by topic; lag by group and partition."""
    rows = await lag.lag_by_group(reads.settings)
    named = PartitionLag.model_fields
    return Streams(
        topics=await reads.topics(),
        lag=[PartitionLag(**{name: getattr(row, name) for name in named}) for row in rows],
    )


class SettingsView(Answer):
    """What this deployment runs with. Passwords, secrets and keys are never told, not even whether they are long."""

    target: str
    real_money: bool
    simulated: bool
    active_brokers: list[Broker]
    settings: dict[str, Any]


_PRIVATE = ("password", "secret", "api_key", "failpoints")


@router.get("/settings", tags=["operations"], summary="Settings", responses=guarded())
async def settings_view(settings: SettingsDep) -> SettingsView:
    """Without a secret among them."""
    return SettingsView(
        target=settings.kite_target.value,
        real_money=settings.real_money,
        simulated=settings.simulated,
        active_brokers=list(settings.active_brokers),
        settings=_public(settings),
    )


def _public(settings: Settings) -> dict[str, Any]:
    given = settings.model_dump(mode="json")
    secret = {name for name in given if isinstance(getattr(settings, name), SecretStr)}
    return {
        name: value
        for name, value in given.items()
        if name not in secret and not any(word in name for word in _PRIVATE)
    }
