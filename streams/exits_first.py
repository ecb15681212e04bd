"""Which signals overtake others on their way to the broker: exits, past the entries of other positions. Never past their own position's."""

from __future__ import annotations

from core.errors import Poison
from core.events.envelope import decode
from core.events.payloads import SignalValidated
from core.messaging.records import Record
from core.trading.signals import Signal
from core.trading.types import Intent


def carries_exit(record: Record) -> bool:
    """Whether the record is an exit's signal, raw or validated. What cannot be read is none: it is buried in its turn."""
    try:
        data = decode(record.value).data
    except Poison:
        return False
    signal = data.signal if isinstance(data, SignalValidated) else data
    return isinstance(signal, Signal) and signal.intent is Intent.EXIT
