"""The day's instrument dump: downloaded at the start, at 06:00 IST, with each new session and once the fresh one is out.

Never replaces a good list by an empty one, and never keeps yesterday's tokens for today.
"""

from __future__ import annotations

from datetime import date, datetime, time

from sqlalchemy.ext.asyncio import AsyncEngine

from core import logging
from core.brokers import kite_http
from core.brokers.zerodha_session import Session
from core.clock import to_ist, trading_day
from core.config import Settings
from core.storage.instruments import has_book, load_book, store_book
from core.trading.instruments import InstrumentBook

FRESH_AT = time(8, 35)
"""Zerodha regenerates the dump before about 08:30 IST; one taken earlier may still be yesterday's."""

log = logging.get(__name__)


class DayBook:
    """Today's instruments, and whether the dump is due again."""

    def __init__(self, settings: Settings, engine: AsyncEngine) -> None:
        self._settings = settings
        self._engine = engine
        self._book: InstrumentBook | None = None
        self._day: date | None = None
        self._taken_at: datetime | None = None
        self._access_token: str | None = None

    @property
    def book(self) -> InstrumentBook:
        if self._book is None:
            raise RuntimeError("the day's instruments are not loaded")
        return self._book

    def stale(self, now: datetime) -> bool:
        """True when the list we hold is not of this trading day: its tokens may mean other instruments by now."""
        return self._day != trading_day(now)

    def due(self, session: Session, now: datetime) -> bool:
        """True when the dump should be taken (again): a new day, a new login, or the fresh one is out since ours."""
        if self.stale(now) or self._access_token != session.access_token:
            return True
        return self._taken_at is not None and not _fresh(self._taken_at) and _fresh(now)

    async def take(self, session: Session, now: datetime) -> None:
        """Download the dump, store it for everyone, and keep it.

        Raises:
            SessionExpired, BrokerError, Transient: as the download and the database say.
        """
        day = trading_day(now)
        rows = await kite_http.instruments(self._settings, session)
        count = await store_book(self._engine, self._settings.kite_target, day, rows)
        self._keep(InstrumentBook(rows), day, now, session)
        log.info("instruments stored", day=day.isoformat(), instruments=count, target=self._settings.kite_target.value)

    async def take_stored(self, session: Session, now: datetime) -> bool:
        """Use what is stored already (a standby, a restart within the day); False when nothing is.

        On the local sandbox nothing stored is trusted: its list can change with its settings.
        """
        day = trading_day(now)
        target = self._settings.kite_target
        if self._settings.simulated or not await has_book(self._engine, target, day):
            return False
        self._keep(await load_book(self._engine, target, day), day, now, session)
        return True

    def _keep(self, book: InstrumentBook, day: date, now: datetime, session: Session) -> None:
        self._book, self._day, self._taken_at, self._access_token = book, day, now, session.access_token


def _fresh(moment: datetime) -> bool:
    """Taken at or after FRESH_AT of its trading day (which begins at 06:00 IST and runs past midnight)."""
    wall = to_ist(moment)
    return wall.time() >= FRESH_AT or wall.date() != trading_day(moment)
