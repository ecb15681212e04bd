"""The REST reads that login, feed and warm-up need, through Zerodha's SDK run in threads: token exchange, dump, candles.

Never places, changes or cancels an order, and never lets an SDK surprise (TypeError, KeyError, HTML) out unclassified.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

import requests
from kiteconnect import KiteConnect
from kiteconnect import exceptions as kite_errors

from core.brokers.zerodha_classify import NeverWritten
from core.brokers.zerodha_http import Call, CheckedAdapter, present
from core.brokers.zerodha_session import Session
from core.clock import DAY_ROLL_HOUR, IST, to_ist, trading_day
from core.config import Settings
from core.errors import BrokerError, SessionExpired, Transient
from core.trading.instruments import Instrument
from core.trading.types import Exchange, KiteTarget

T = TypeVar("T")

TIMEOUT_S = 7.0
"""Most one read may take, to the last byte of its answer."""

DUMP_TIMEOUT_S = 120.0
"""The dump of all instruments is some ten megabytes."""

MAX_SPAN_DAYS = {
    "minute": 60,
    "3minute": 100,
    "5minute": 100,
    "10minute": 100,
    "15minute": 200,
    "30minute": 200,
    "60minute": 400,
    "day": 2000,
}
"""Days one historical request may span, by interval (kite.trade/docs/connect/v3/historical and its error texts)."""

HISTORICAL_GAP_S = 0.35
"""Kite serves 3 historical requests a second; a process asks at most this often."""

_OMS_PREFIX = "/oms"
_UNPREFIXED = frozenset({"market.instruments", "market.instruments.all"})


@dataclass(frozen=True, slots=True)
class Candle:
    """One historical bar as the broker gives it: `start` aware UTC, prices in rupees, volume in units."""

    start: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: int


class _Kite(KiteConnect):  # type: ignore[misc]
    """The SDK without its parsing of every date of every row by dateutil, which is most of what a read of a long book costs.

    A look at one order reads the day's whole book; whoever wants a row's time parses that one (zerodha_rows.moment).
    """

    def _format_response(self, data: Any) -> Any:
        return data


def kite_client(settings: Settings, session: Session | None = None, *, timeout_s: float = TIMEOUT_S) -> KiteConnect:
    """An SDK client for the target, logged in when a session is given. Synchronous: use it in a thread.

    The official sandbox serves every route but the dumps below /oms, and the SDK drops any path of its root.
    """
    kite = _Kite(
        settings.kite_api_key if session is None else session.api_key, root=settings.kite_root, timeout=timeout_s
    )
    for scheme in ("http://", "https://"):
        kite.reqsession.mount(scheme, CheckedAdapter())
    if session is not None:
        kite.set_access_token(session.access_token)
    if settings.kite_target is not KiteTarget.PRODUCTION:
        kite._default_login_uri = f"{settings.kite_root}/connect/login"
    if settings.kite_target is KiteTarget.ZERODHA_SANDBOX:
        kite._routes = {
            name: path if name in _UNPREFIXED else f"{_OMS_PREFIX}{path}" for name, path in kite._routes.items()
        }
    return kite


def login_url(settings: Settings) -> str:
    """Where a person logs in; Zerodha sends them back to the app's registered redirect address."""
    url: str = kite_client(settings).login_url()
    return url


async def read(what: str, run: Callable[[], T], *, within_s: float = TIMEOUT_S) -> T:
    """Run one SDK read in a thread, within so many seconds in all, and say what went wrong in our terms.

    Raises:
        SessionExpired: the access token is refused.
        BrokerError: the broker refuses this request for good (bad input, no permission, no subscription).
        Transient: anything that may be well again when asked once more.
    """
    answer_by = time.monotonic() + within_s
    call = Call(what, answer_by, answer_by)
    try:
        async with asyncio.timeout(within_s):
            return await asyncio.to_thread(_in_thread, call, run)
    except TimeoutError as error:
        raise Transient(f"{what}: no whole answer within {within_s:g} s") from error
    except kite_errors.TokenException as error:
        raise SessionExpired(f"{what}: {error}; run `alpha-panda login`") from error
    except (kite_errors.InputException, kite_errors.PermissionException) as error:
        raise BrokerError(f"{what}: refused by the broker: {error}") from error
    except (kite_errors.KiteException, requests.RequestException, NeverWritten) as error:
        raise Transient(f"{what}: {type(error).__name__}: {error}") from error
    except (TypeError, KeyError, ValueError, UnboundLocalError) as error:  # what the SDK makes of an odd body
        raise Transient(f"{what}: the broker's answer is unreadable ({type(error).__name__}: {error})") from error
    finally:
        call.give_up()


def _in_thread(call: Call, run: Callable[[], T]) -> T:
    with present(call):
        return run()


def session_end(login_time: datetime) -> datetime:
    """Kite's tokens die at 06:00 IST of the next trading day; no field on the wire says so. Aware UTC."""
    day = trading_day(login_time) + timedelta(days=1)
    return datetime(day.year, day.month, day.day, DAY_ROLL_HOUR, tzinfo=IST).astimezone(UTC)


async def exchange_token(settings: Settings, request_token: str) -> Session:
    """Turn a request_token (single use, minutes old) into a session, with the checksum the SDK computes.

    Raises:
        SessionExpired: the request_token is used, too old, or the api secret is wrong.
        BrokerError: the session belongs to another user than KITE_USER_ID.
        Transient: the broker is away.
    """
    kite = kite_client(settings)
    secret = settings.kite_api_secret.get_secret_value()
    answer = await read("token exchange", lambda: kite.generate_session(request_token, api_secret=secret))
    user_id = str(answer["user_id"])
    if user_id != settings.kite_user_id:
        raise BrokerError(
            f"the login was done as {user_id}, but KITE_USER_ID is {settings.kite_user_id}: "
            "log in as that user, or mend KITE_USER_ID in .env"
        )
    login_time = _login_time(answer.get("login_time"))
    return Session(
        user_id=user_id,
        api_key=settings.kite_api_key,
        access_token=str(answer["access_token"]),
        login_time=login_time,
        expires_at=session_end(login_time),
    )


def _login_time(value: Any) -> datetime:
    """The SDK turns login_time into a naive datetime in IST; an odd one is refused rather than replaced by now."""
    if not isinstance(value, datetime):
        raise Transient(f"token exchange: the broker's login_time is unreadable: {value!r}")
    return (value if value.tzinfo else value.replace(tzinfo=IST)).astimezone(UTC)


async def session_works(settings: Settings, session: Session) -> bool:
    """Ask the broker for the profile: True when the session is alive and is this user's.

    Raises:
        Transient: the broker is away, so nothing is known.
    """
    try:
        profile = await read("profile", kite_client(settings, session).profile)
    except SessionExpired:
        return False
    return bool(profile.get("user_id") == session.user_id)


async def end_session(settings: Settings, session: Session) -> None:
    """End the session at the broker; one that is over already is over.

    Raises:
        Transient: the broker is away, so nothing is known.
    """
    kite = kite_client(settings, session)
    with contextlib.suppress(SessionExpired):
        await read("logout", lambda: kite.invalidate_access_token(session.access_token))


async def instruments(settings: Settings, session: Session) -> list[Instrument]:
    """The day's dump, all exchanges we know. Rows of exchanges we have no word for are left out.

    Raises:
        SessionExpired, BrokerError, Transient: as `read`; Transient also for a dump without a single row.
    """
    kite = kite_client(settings, session, timeout_s=DUMP_TIMEOUT_S)
    rows = await read("instrument dump", lambda: _instruments(kite.instruments()), within_s=DUMP_TIMEOUT_S)
    if not rows:
        raise Transient("instrument dump: the broker sent no rows")
    return rows


def _instruments(rows: list[dict[str, Any]]) -> list[Instrument]:
    known = set(Exchange)
    return [_instrument(row) for row in rows if row["exchange"] in known]


def _instrument(row: dict[str, Any]) -> Instrument:
    expiry = row["expiry"]
    return Instrument(
        instrument_token=int(row["instrument_token"]),
        exchange_token=int(row["exchange_token"]),
        tradingsymbol=row["tradingsymbol"],
        name=row["name"],
        exchange=Exchange(row["exchange"]),
        segment=row["segment"],
        instrument_type=row["instrument_type"],
        tick_size=Decimal(str(row["tick_size"])),
        lot_size=int(row["lot_size"]),
        expiry=expiry if isinstance(expiry, date) else None,
        strike=Decimal(str(row["strike"])),
    )


class _Pace:
    """Keeps historical requests of this process apart; a lock, so that callers queue up rather than burst."""

    def __init__(self, gap_s: float) -> None:
        self._gap_s = gap_s
        self._next = 0.0
        self._lock = asyncio.Lock()

    async def turn(self) -> None:
        async with self._lock:
            wait = self._next - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            self._next = time.monotonic() + self._gap_s


_historical_pace = _Pace(HISTORICAL_GAP_S)


async def candles(
    settings: Settings, session: Session, instrument_token: int, interval: str, start: datetime, end: datetime
) -> list[Candle]:
    """Historical bars from `start` to `end` (aware, both inclusive), oldest first, in as many requests as Kite's spans need.

    The last one may still be forming: a caller who wants only closed bars drops those whose end is not past.

    Raises:
        ValueError: an unknown interval, or naive times.
        SessionExpired, BrokerError, Transient: as `read`.
    """
    if interval not in MAX_SPAN_DAYS:
        raise ValueError(f"no interval {interval!r}: it is one of {', '.join(MAX_SPAN_DAYS)}")
    if start.tzinfo is None or end.tzinfo is None:
        raise ValueError("start and end must be aware times")
    kite = kite_client(settings, session)
    found: dict[datetime, Candle] = {}
    for first, last in _spans(start, end, MAX_SPAN_DAYS[interval]):
        await _historical_pace.turn()
        rows = await read(
            f"historical {interval} candles of {instrument_token}",
            lambda first=first, last=last: kite.historical_data(  # type: ignore[misc]
                instrument_token, _wall(first), _wall(last), interval
            ),
        )
        for row in rows:
            candle = _candle(row)
            found[candle.start] = candle
    return [found[moment] for moment in sorted(found)]


def _spans(start: datetime, end: datetime, days: int) -> Iterator[tuple[datetime, datetime]]:
    while start <= end:
        last = min(end, start + timedelta(days=days) - timedelta(seconds=1))
        yield start, last
        start = last + timedelta(seconds=1)


def _wall(moment: datetime) -> datetime:
    """Kite reads request times as IST; the SDK formats naive datetimes as they are."""
    return to_ist(moment).replace(tzinfo=None)


def _candle(row: dict[str, Any]) -> Candle:
    moment: datetime = row["date"]
    return Candle(
        start=(moment if moment.tzinfo else moment.replace(tzinfo=IST)).astimezone(UTC),
        open=Decimal(str(row["open"])),
        high=Decimal(str(row["high"])),
        low=Decimal(str(row["low"])),
        close=Decimal(str(row["close"])),
        volume=int(row["volume"]),
    )
