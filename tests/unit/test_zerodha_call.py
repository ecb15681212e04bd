"""The last moment before a request's first byte: may it still leave?"""

from __future__ import annotations

import time

import pytest

from core.brokers import zerodha_http
from core.brokers.zerodha_classify import NeverWritten
from core.brokers.zerodha_http import SLEPT_S, Call
from core.clock import slept_s


def call(left_s: float = 5.0) -> Call:
    now = time.monotonic()
    return Call("place T1", now + left_s, now + 7)


def test_a_call_in_time_leaves_once_and_one_past_its_deadline_never() -> None:
    made = call()
    made.may_write()
    made.may_write()
    assert made.written
    late = call(left_s=0)
    with pytest.raises(NeverWritten, match="past its deadline"):
        late.may_write()
    assert not late.written


def test_a_call_whose_caller_gave_up_never_leaves() -> None:
    made = call()
    made.give_up()
    with pytest.raises(NeverWritten, match="gave up"):
        made.may_write()


@pytest.mark.parametrize(("slept", "leaves"), [(0.0, True), (SLEPT_S / 2, True), (3600.0, False)])
def test_after_the_host_slept_nothing_leaves_however_much_of_its_deadline_is_left(
    slept: float, leaves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A laptop shut in mid-send and opened an hour later: the clock of the deadline stood still."""
    made, before = call(), slept_s()
    monkeypatch.setattr(zerodha_http, "slept_s", lambda: before + slept)
    if leaves:
        made.may_write()
    else:
        with pytest.raises(NeverWritten, match="slept"):
            made.may_write()
    assert made.written is leaves


def test_a_host_that_is_awake_sleeps_no_further() -> None:
    first = slept_s()
    assert abs(slept_s() - first) < SLEPT_S
