"""Coming back to a ticker that does not answer: longer pauses each time, up to a bound, and from the beginning once it spoke."""

from __future__ import annotations

from typing import Any

import pytest

from core.clock import utc_now
from streams import feed_socket
from streams.feed_socket import FIRST_BACKOFF_S, LONGEST_BACKOFF_S, KiteSocket, SocketEvents


def make_socket(gaps: list[Any]) -> KiteSocket:
    async def nobody(*_: Any) -> None:
        return None

    events = SocketEvents(
        frame=lambda *_: None,
        text=lambda *_: None,
        gap=lambda *told: gaps.append(told),
        up=lambda _: None,
        session=nobody,
        refused=nobody,
    )
    settings: Any = None
    return KiteSocket(settings, events)


@pytest.mark.parametrize("jitter", [0.5, 1.0])
def test_pauses_double_up_to_the_longest_and_begin_anew_with_a_frame(
    jitter: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_socket.random, "uniform", lambda low, high: {0.5: low, 1.0: high}[jitter])
    socket = make_socket([])
    pauses = [socket._backoff() / jitter for _ in range(12)]
    assert pauses[:4] == [FIRST_BACKOFF_S * 2**n for n in range(4)]
    assert set(pauses[5:]) == {LONGEST_BACKOFF_S}
    socket._delivering(utc_now())
    assert socket._backoff() / jitter == FIRST_BACKOFF_S


def test_the_first_frame_after_a_loss_names_the_gap_once() -> None:
    gaps: list[Any] = []
    socket = make_socket(gaps)
    socket.want([1, 2])
    since, until = utc_now(), utc_now()
    socket.missing_since(since, "no frame for 5 s")
    socket._delivering(until)
    socket._delivering(utc_now())
    assert gaps == [(frozenset({1, 2}), since, until, "no frame for 5 s")]


def test_more_than_kite_serves_is_refused() -> None:
    with pytest.raises(ValueError, match="Kite serves 3000"):
        make_socket([]).want(range(3001))
