"""Faults of the ticker's sockets: mute, reset, refused, garbled, a clock that is off. Prices themselves are never changed."""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence

from sandbox import packets
from sandbox.fault_engine import Facts, FaultEngine
from sandbox.fault_kinds import Family, FaultKind

_FRAME = Facts("ticker")
_CUT = 7
"""Bytes missing at the end of a garbled frame: less than any packet has."""

_STAMPS = {184: (44, 60), 32: (28,)}
"""length of a packet: where its epoch seconds stand"""


class SocketFaults:
    """Asked by the hub at each handshake, each slot and each tick frame."""

    def __init__(self, engine: FaultEngine) -> None:
        self._engine = engine
        self._mute_until = 0.0

    @property
    def muted(self) -> bool:
        return time.time() < self._mute_until

    def slot(self) -> None:
        """A moment in which frames may be sent: do the sockets fall silent?"""
        if not self._engine.any(Family.SOCKET) or self.muted:
            return
        choice = self._engine.choose(Family.SOCKET, _FRAME, {FaultKind.SOCKET_MUTE})
        if choice is not None:
            delay = choice.delay()
            self._mute_until = time.time() + delay
            self._engine.record(choice, f"{delay:.1f} s")

    def refuses(self) -> bool:
        if not self._engine.any(Family.SOCKET):
            return False
        choice = self._engine.choose(Family.SOCKET, Facts("ticker.handshake"), {FaultKind.SOCKET_REFUSED})
        if choice is not None:
            self._engine.record(choice)
        return choice is not None

    def resets(self, number: int) -> bool:
        """True when socket `number` is to end instead of its next tick frame."""
        if not self._engine.any(Family.SOCKET):
            return False
        choice = self._engine.choose(Family.SOCKET, _FRAME, {FaultKind.SOCKET_RESET})
        if choice is not None:
            self._engine.record(choice, f"socket {number}")
        return choice is not None

    def frame(self, bodies: Sequence[bytes]) -> bytes:
        """The tick frame to send for these packets."""
        if not self._engine.any(Family.SOCKET):
            return packets.frame(bodies)
        skew = self._engine.choose(Family.SOCKET, _FRAME, {FaultKind.CLOCK_SKEW})
        if skew is not None:
            seconds = int(skew.value("skew_s"))
            bodies = [_skewed(body, seconds) for body in bodies]
            self._engine.record(skew, f"{len(bodies)} packets {seconds} s off")
        frame = packets.frame(bodies)
        cut = self._engine.choose(Family.SOCKET, _FRAME, {FaultKind.SOCKET_GARBLED})
        if cut is None:
            return frame
        self._engine.record(cut, f"{len(frame) - _CUT} of {len(frame)} bytes")
        return frame[:-_CUT]


def _skewed(body: bytes, seconds: int) -> bytes:
    moved = bytearray(body)
    for offset in _STAMPS.get(len(body), ()):
        (stamp,) = struct.unpack_from(">I", moved, offset)
        struct.pack_into(">I", moved, offset, stamp + seconds)
    return bytes(moved)
