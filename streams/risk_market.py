"""The last price of every instrument, folded from market.ticks, for risk and marks. Holds no position and decides nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from core import logging
from core.errors import Poison
from core.events.envelope import EventType, decode
from core.messaging.records import Record
from core.trading.ticks import Tick

log = logging.get(__name__)

_TICK = EventType.TICK.value.encode()


@dataclass(frozen=True, slots=True)
class LastPrice:
    """Rupees, and when its tick came in (host clock, UTC)."""

    price: Decimal
    received_at: datetime

    def age_s(self, now: datetime) -> float:
        return max((now - self.received_at).total_seconds(), 0.0)


class LastPrices:
    """By instrument token."""

    def __init__(self) -> None:
        self._last: dict[int, LastPrice] = {}

    def get(self, instrument_token: int) -> LastPrice | None:
        return self._last.get(instrument_token)

    def put(self, instrument_token: int, last: LastPrice) -> None:
        """Keep the newer one: a second feed or a re-read partition may bring an older tick again."""
        known = self._last.get(instrument_token)
        if known is None or last.received_at >= known.received_at:
            self._last[instrument_token] = last

    def fold(self, records: Iterable[Record]) -> None:
        """Take the newest tick of each key in a batch; the others would be overwritten at once and are not decoded.

        An unreadable tick is logged and skipped: it is no evidence of any price, and its absence ages the last one.
        """
        newest: dict[bytes, Record] = {}
        for record in records:
            if record.headers.get("type", _TICK) == _TICK:
                newest[record.key] = record
        for record in newest.values():
            try:
                data = decode(record.value).data
            except Poison as error:
                log.warning("unreadable tick", partition=record.partition, offset=record.offset, reason=str(error))
                continue
            if isinstance(data, Tick):
                self.put(data.instrument_token, LastPrice(data.last_price, data.received_at))
