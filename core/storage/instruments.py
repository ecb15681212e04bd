"""The day's instruments of a target, written by market-feed and read by every process that resolves a name or a token.

Never serves yesterday's list: tokens are reused after expiry, so a day without its dump has no instruments.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import Text, cast, delete, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.clock import trading_day, utc_now
from core.errors import Transient
from core.storage.db import transient
from core.storage.models import InstrumentRow
from core.trading.instruments import Instrument, InstrumentBook
from core.trading.types import KiteTarget
from core.waiting import until_well

if TYPE_CHECKING:
    from core.service import ServiceContext

KEPT_DAYS = 7
COPY_TIMEOUT_S = 120.0
_COLUMNS = ("target", "trading_day", "instrument_key", "instrument_token", "row")


class BookMissing(Transient):
    """The day's dump is not stored yet; market-feed writes it at its start and at 06:00 IST."""

    def __init__(self, target: KiteTarget, day: date) -> None:
        super().__init__(
            f"no instruments of {target} for {day} yet: market-feed downloads them at its start", part="instruments"
        )


async def store_book(engine: AsyncEngine, target: KiteTarget, day: date, rows: Sequence[Instrument]) -> int:
    """Replace the day's instruments by `rows` in one transaction; drops days older than KEPT_DAYS. Returns the count.

    Uses COPY: 100,000 rows take seconds. Readers see the old list or the new one, never a part.

    Raises:
        Transient: the database is away.
        ValueError: `rows` is empty; an empty list never replaces a good one.
    """
    if not rows:
        raise ValueError(f"the instrument dump of {target} for {day} is empty: refusing to store it")
    unique = {row.key: row for row in rows}
    records = [(target.value, day, key, row.instrument_token, row.model_dump_json()) for key, row in unique.items()]
    async with transient("storing the day's instruments"), engine.begin() as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('config.instruments'))"))
        await connection.execute(
            delete(InstrumentRow).where(
                InstrumentRow.target == target.value,
                (InstrumentRow.trading_day == day) | (InstrumentRow.trading_day < day - timedelta(days=KEPT_DAYS)),
            )
        )
        await _copy(connection, records)
    return len(records)


async def _copy(connection: AsyncConnection, records: list[tuple[str, date, str, int, str]]) -> None:
    """COPY inside the transaction the delete has opened."""
    raw = await connection.get_raw_connection()
    driver = raw.driver_connection
    if driver is None:
        raise Transient("PostgreSQL connection lost before the instruments were copied")
    await driver.copy_records_to_table(
        InstrumentRow.__tablename__,
        schema_name=InstrumentRow.__table__.schema,
        columns=_COLUMNS,
        records=records,
        timeout=COPY_TIMEOUT_S,
    )


async def has_book(engine: AsyncEngine, target: KiteTarget, day: date) -> bool:
    """True when the day's dump is stored."""
    query = select(func.count()).where(InstrumentRow.target == target.value, InstrumentRow.trading_day == day)
    async with transient("looking for the day's instruments"), engine.connect() as connection:
        return bool((await connection.execute(query)).scalar_one())


async def load_book(
    engine: AsyncEngine, target: KiteTarget, day: date, *, keys: Collection[str] | None = None
) -> InstrumentBook:
    """The day's instruments, or only those named in `keys` (`NSE:INFY`) where memory matters.

    Raises:
        BookMissing: (a Transient) the day's dump is not stored yet.
    """
    query = select(cast(InstrumentRow.row, Text)).where(
        InstrumentRow.target == target.value, InstrumentRow.trading_day == day
    )
    if keys is not None:
        query = query.where(InstrumentRow.instrument_key.in_(list(keys)))
    if keys is not None and not await has_book(engine, target, day):  # asked first: a dump once stored stays
        raise BookMissing(target, day)
    async with transient("reading the day's instruments"), engine.connect() as connection:
        found = (await connection.execute(query)).scalars().all()
    if not found and keys is None:
        raise BookMissing(target, day)
    return InstrumentBook(Instrument.model_validate_json(row) for row in found)


async def wait_book(
    ctx: ServiceContext, engine: AsyncEngine, *, keys: Collection[str] | None = None
) -> InstrumentBook | None:
    """Today's instruments, waiting for market-feed to store them; until then the health part "instruments" says so.

    Returns None when the service is asked to stop first.
    """
    found: list[InstrumentBook] = []

    async def look() -> None:
        found.append(await load_book(engine, ctx.settings.kite_target, trading_day(utc_now()), keys=keys))

    if not await until_well(ctx.waiting, "instruments", look, ctx.stop):
        return None
    return found[0]
