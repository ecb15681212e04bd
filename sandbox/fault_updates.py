"""Faults of order updates on their way out: lost, doubled, late, out of order. What an update says is never changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sandbox.fault_engine import Choice, Facts, FaultEngine
from sandbox.fault_kinds import Family, FaultKind
from sandbox.faults import Channel
from sandbox.orders import Order

Deliver = Callable[[], None]


class UpdateFaults:
    """Stands before one channel's sender. Call only from the event loop."""

    def __init__(self, engine: FaultEngine, channel: Channel) -> None:
        self._engine = engine
        self._channel = channel
        self._held: list[Deliver] = []

    def send(self, order: Order, deliver: Deliver) -> None:
        """Call `deliver` (its content is fixed already) once, or as the rules say."""
        choice = None
        if self._engine.any(Family.UPDATE):
            choice = self._engine.choose(Family.UPDATE, Facts.of(order, self._channel))
        if choice is None:
            deliver()
            self._release()
            return
        self._engine.record(choice, f"{self._channel}: {order.status}, {order.filled} filled")
        self._meddle(choice, deliver)

    def _meddle(self, choice: Choice, deliver: Deliver) -> None:
        loop = asyncio.get_running_loop()
        match choice.kind:
            case FaultKind.UPDATE_LOST:
                return
            case FaultKind.UPDATE_DUPLICATED:
                for _ in range(1 + choice.value("copies")):
                    deliver()
                self._release()
            case FaultKind.UPDATE_DELAYED:
                loop.call_later(choice.delay(), deliver)
            case FaultKind.UPDATE_REORDERED:
                self._held.append(deliver)
                loop.call_later(choice.delay(), self._release_one, deliver)
            case _:
                raise AssertionError(f"{choice.kind} is no fault of updates")

    def _release(self) -> None:
        """An update went out: those held back come after it, the newest first."""
        held, self._held = self._held, []
        for deliver in reversed(held):
            deliver()

    def _release_one(self, deliver: Deliver) -> None:
        if deliver in self._held:
            self._held.remove(deliver)
            deliver()
