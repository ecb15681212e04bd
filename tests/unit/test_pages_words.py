"""What the pages say of facts: what needs a person, whether all is well, limits against use, an order's story."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from api.models import Part
from api.pages import attention, formats, well
from api.pages.alerts import _about, _not_stored_yet, _who
from api.pages.facts import FeedAge
from api.pages.risk import against
from api.routers.alert_channels import Channel, Channels, Telling, ToldAlert
from api.story import money
from core.storage.alerts import Outcome
from core.storage.risk_use import LimitUse

NOW = datetime(2026, 11, 23, 4, 0, tzinfo=UTC)


# prices grow old -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age_s", "said", "tone"),
    [
        (None, "no tick since this page was opened", "warn"),
        (0.2, "arriving; the newest is 0 s old", ""),
        (4.9, "arriving; the newest is 4 s old", ""),
        (5, "none for 5.0 s", "bad"),
        (320, "none for 5 min 20 s", "bad"),
    ],
)
def test_prices_that_stop_are_told(age_s: float | None, said: str, tone: str) -> None:
    last = None if age_s is None else NOW - timedelta(seconds=age_s)
    words, shown = well.feed_words(FeedAge.of(last, NOW))
    assert words.startswith(said)
    assert shown == tone


def test_a_feed_that_stopped_is_another_fact_each_second() -> None:
    """Facts are shown when they change: an age that did not would stand there for ever."""
    ages = [FeedAge.of(NOW, NOW + timedelta(seconds=seconds)) for seconds in range(8)]
    assert len(set(ages)) == 8


# what needs a person -------------------------------------------------------------------------------------------------------


def test_only_what_is_not_ready_needs_a_person() -> None:
    rows = [
        Part(name="kafka", kind="server", ready=True, reason=""),
        Part(name="portfolio", kind="service", ready=False, reason="waits for redis"),
    ]
    assert attention.part_lines(rows) == [("portfolio: waits for redis", "/#parts")]


def test_a_dead_session_leads_to_where_one_logs_in() -> None:
    assert attention.session_lines(True) == []
    assert attention.session_lines(False)[0][1] == "/risk#session"


def test_a_channel_that_fails_is_told_on_today() -> None:
    assert attention.channel_lines(["The alert channel json-1 takes no message"]) == [
        ("The alert channel json-1 takes no message", "/alerts")
    ]
    failing = Channel(channel="json-1", last_sent_at=None, failing_since=NOW, last_error="HTTP 500", waiting=3)
    works = failing.model_copy(update={"channel": "tgram-2", "failing_since": None})
    assert well.channel_words(Channels(channels=[failing, works], trouble=[])) == ("json-1 takes no message", "bad")
    assert well.channel_words(Channels(channels=[works], trouble=[])) == ("1 channel, none fails", "")
    assert "reach nobody" in well.channel_words(Channels(channels=[], trouble=[]))[0]


# limits --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used", "most", "tone", "more"),
    [
        (0, 5000, "", None),
        (3749, 5000, "", None),
        (3750, 5000, "warn", "near"),
        (5000, 5000, "down", "reached"),
        (0, 0, "down", "reached"),
    ],
)
def test_a_limit_that_is_near_is_said_in_words_too(used: int, most: int, tone: str, more: str | None) -> None:
    found = against(Decimal(used), Decimal(most), formats.number)
    assert found["text"] == f"{formats.number(used)} of {formats.number(most)}"
    assert (found.get("tone", ""), found.get("more")) == (tone, more)


def test_an_accounts_use_is_the_sum_of_its_instances() -> None:
    assert sum([LimitUse(1, 4), LimitUse(2, 3)], LimitUse()) == LimitUse(3, 7)


# alerts --------------------------------------------------------------------------------------------------------------------


def told(*states: Outcome, repeats: bool = False) -> ToldAlert:
    each = [
        Telling(
            channel=f"c{number}",
            state=state,
            attempts=1,
            error="HTTP 500" if state is Outcome.FAILED else None,
            ended_at=None,
        )
        for number, state in enumerate(states)
    ]
    return ToldAlert(
        alert_id=uuid4(), kind="drift", subject="s", message="m", action="a", source="x", at=NOW,
        repeats=uuid4() if repeats else None, told=each,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("row", "text", "tone"),
    [
        (told(), "nobody: no channel", None),
        (told(repeats=True), "said before, with the same words", None),
        (told(Outcome.SENT, Outcome.WAITING), "c0 sent; c1 waiting", None),
        (told(Outcome.SENT, Outcome.FAILED), "c0 sent; c1 failed", "down"),
    ],
)
def test_an_alert_says_who_was_told(row: ToldAlert, text: str, tone: str | None) -> None:
    found = _who(row)
    assert (found["text"], found.get("tone")) == (text, tone)


def test_an_alert_about_an_order_leads_to_it() -> None:
    order_id = str(uuid4())
    assert _about("order_unresolved", order_id)["to"] == f"/room/order/{order_id}"
    assert "to" not in _about("kill_engaged", order_id)
    assert _about("drift", "NSE:INFY MIS") == {"text": "NSE:INFY MIS"}


class Raised:
    """An alert as the log tells it."""

    def __init__(self, name: str, seconds: float, kind: str = "drift") -> None:
        self.event_id, self.at = name, NOW + timedelta(seconds=seconds)
        self.data = f'{{"data": {{"kind": "{kind}", "subject": "s", "message": "m", "action": "a"}}}}'


def test_an_alert_of_the_log_shows_before_history_has_it_and_once() -> None:
    events: Any = [Raised("new", 1), Raised("stored", 0), Raised("other", 1, "ready"), Raised("of a later page", -60)]
    rows = _not_stored_yet(events, {"stored"}, NOW - timedelta(seconds=30), "drift")
    assert [row.key for _, row in rows] == ["new"]
    assert [row.key for _, row in _not_stored_yet(events, {"stored"}, None, None)] == [
        "new",
        "other",
        "of a later page",
    ]


# the story -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "shown"),
    [("0", "0.00"), ("-4.5", "-4.50"), ("0.8349", "0.8349"), ("1500", "1,500.00"), ("-1234567.5", "-12,34,567.50")],
)
def test_a_story_tells_rupees_with_indian_grouping(amount: str, shown: str) -> None:
    assert money(amount) == shown
