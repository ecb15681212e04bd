"""What the processes' own words come to: ready or not, started again, feed mute, login due. Pure: told the time, does no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal

from core.clock import to_ist
from core.health import Health
from core.trading.calendar import SessionKind, TradingCalendar

NOT_READY_FOR = timedelta(seconds=15)
"""A restart or a rebalance is over by then."""

NOT_READY_AT_START_FOR = timedelta(minutes=2)
READY_FOR = timedelta(seconds=5)
MUTE_FOR = timedelta(seconds=5)

LOGIN = "alpha-panda login"
"""In the reason of every process that waits for a session."""

FEED, FEED_PARTS = "market-feed", ("kite", "session")
LOGIN_DUE = (8 * 60 + 30, 9 * 60 + 5)
"""Minutes of a trading day, IST, from which on a missing session is told, once each."""


def reasons(expected: Iterable[str], said: Mapping[str, Health]) -> dict[str, str]:
    """Why each process that is not ready is not; empty when all are."""
    found = {}
    for name in expected:
        word = said.get(name)
        if word is None:
            found[name] = "not running"
        elif not word.ready:
            found[name] = word.reason or "not ready"
    return found


def in_session(calendar: TradingCalendar, now: datetime) -> bool:
    return any(calendar.phase(kind, now).is_open for kind in SessionKind)


@dataclass
class Lasting:
    """How long something has been so."""

    since: datetime | None = None

    def holds(self, is_so: bool, now: datetime, long_enough: timedelta) -> bool:
        if not is_so:
            self.since = None
            return False
        self.since = self.since or now
        return now - self.since >= long_enough


@dataclass
class ReadyWatch:
    """Tells a change of the whole once it lasts. `told`: what was said last, None before anything was."""

    told: bool | None = None
    _bad: Lasting = field(default_factory=Lasting)
    _good: Lasting = field(default_factory=Lasting)

    def observe(self, now: datetime, ready: bool) -> bool | None:
        """True or False where that is news, None where not."""
        patience = NOT_READY_AT_START_FOR if self.told is None else NOT_READY_FOR
        bad, good = self._bad.holds(not ready, now, patience), self._good.holds(ready, now, READY_FOR)
        if bad and self.told is not False:
            self.told = False
            return False
        if good and self.told is not True:
            self.told = True
            return True
        return None


@dataclass
class RestartWatch:
    """Knows each process by when it started. `seen` outlives the watcher, so that it sees its own death too."""

    seen: dict[str, float] = field(default_factory=dict)

    def observe(self, said: Mapping[str, Health]) -> list[str]:
        """Names of processes that are others than last time."""
        found = []
        for name, word in said.items():
            if word.started_at and self.seen.get(name, word.started_at) != word.started_at:
                found.append(name)
            self.seen[name] = word.started_at
        return found


@dataclass
class MuteWatch:
    """The feed is mute while a session is open: its process says so, or says nothing."""

    told: bool = False
    _mute: Lasting = field(default_factory=Lasting)

    def observe(self, now: datetime, feed: Health | None, is_open: bool) -> str | None:
        """Why, once, when it has been so for MUTE_FOR."""
        why = _mute(feed)
        lasting = self._mute.holds(why is not None and is_open, now, MUTE_FOR)
        news = lasting and not self.told
        self.told = lasting
        return why if news else None


def _mute(feed: Health | None) -> str | None:
    if feed is None:
        return "its process does not run"
    if feed.reason.startswith("no heartbeat"):
        return feed.reason
    return next((feed.parts[part] for part in FEED_PARTS if feed.parts.get(part)), None)


def past_loss(who: str, day_net: Decimal, most: Decimal) -> str | None:
    """In words, where the trading day's loss (realised + unrealised − charges, rupees) has reached its limit; None where it has not."""
    if -day_net < most:
        return None
    return f"{who} has lost ₹{-day_net:.2f} today, the limit is ₹{most:.2f}: entries are refused while that is so"


def login_due(calendar: TradingCalendar, now: datetime, has_session: bool) -> tuple[date, int] | None:
    """The day and how many times today it was due by now, where no session is valid; None where nobody need log in."""
    local = to_ist(now)
    minute = local.hour * 60 + local.minute
    times = sum(minute >= each for each in LOGIN_DUE)
    if has_session or not times or not calendar.is_trading_day(local.date()) or not _still_trading(calendar, now):
        return None
    return local.date(), times


def _still_trading(calendar: TradingCalendar, now: datetime) -> bool:
    """False once the day's last session is over."""
    return any(
        to_ist(calendar.next_open(kind, now)).date() == to_ist(now).date() for kind in SessionKind
    ) or in_session(calendar, now)


def waits_for_login_alone(why: Mapping[str, str]) -> bool:
    return bool(why) and all(LOGIN in reason for reason in why.values())
