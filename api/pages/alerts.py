"""What a person should know: alerts with what to do about each and who was told, and the channels that tell, with a test of them.

Never shows a channel's address.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from nicegui.element import Element

from api.hub import Event
from api.pages import formats, parts
from api.pages.desk import Desk
from api.pages.dialogs import Field, Question, Values, reason
from api.pages.guard import ROOM
from api.pages.listing import SHOWN, Listed, Listing, text_of
from api.pages.live import Seen
from api.pages.page import Page
from api.pages.parts import Column, Row, Table, cell, chip
from api.routers import alert_channels
from api.routers.alert_channels import Channel, ToldAlert, Tried, Try
from core.alerting.kinds import Severity, severity_of
from core.errors import CommandRefused
from core.storage.alerts import Outcome

_COLUMNS = (
    Column("When"),
    Column("Kind"),
    Column("About"),
    Column("What happened", "wide"),
    Column("What to do", "wide"),
    Column("Who was told", "wide"),
)
_CHANNELS = (
    Column("Channel"),
    Column("State"),
    Column("Last message"),
    Column("Waiting", "num"),
    Column("What is wrong", "wide"),
)
_TOLD = {
    "": "anything",
    Outcome.SENT.value: "told",
    Outcome.WAITING.value: "waiting",
    Outcome.FAILED.value: "given up",
}
_TONES = {Severity.CRITICAL: "bad", Severity.WARNING: "warn", Severity.INFO: "plain"}
NO_CHANNEL = (
    "No channel: alerts stay on this page and nobody is told. Name some in ALERT_URLS in .env (docs/operations.md, "
    "Alerts), then `make up`."
)


async def build(desk: Desk) -> None:
    await _channels(desk)
    kind = Field("kind", "Kind", placeholder="any, or e.g. drift")
    state = Field("state", "Became of it", options=_TOLD)

    async def read(cursor: str | None) -> Listed:
        wanted = (text_of(kind) or "").lower().replace(" ", "_") or None
        page = await alert_channels.history(
            desk.room.links,
            kind=wanted,
            state=Outcome(state.value) if state.value else None,
            cursor=cursor,
            limit=SHOWN,
        )
        rows = [(row.at, _stored(row)) for row in page.alerts]
        if cursor is None and not state.value:
            oldest = page.alerts[-1].at if page.next else None
            known = {str(row.alert_id) for row in page.alerts}
            rows += _not_stored_yet(desk.room.hub.alerts(), known, oldest, wanted)
        rows.sort(key=lambda row: row[0], reverse=True)
        empty = "No alert fits." if wanted or state.value else "No alert yet. They come here, newest first."
        return Listed([row for _, row in rows], page.next, empty)

    await Listing("Alerts", _COLUMNS, (kind, state), read).follow(desk, "alerts")


def _not_stored_yet(
    events: Sequence[Event], known: Collection[str], oldest: datetime | None, kind: str | None
) -> list[tuple[datetime, Row]]:
    """What the log tells and history does not have: just raised, or the alert-sender is away."""
    rows = []
    for event in events:
        data = json.loads(event.data)["data"]
        if event.event_id in known or (oldest is not None and event.at < oldest) or kind not in (None, data["kind"]):
            continue
        rows.append((event.at, _row(event.event_id, event.at, data, cell("not taken up yet", "warn"))))
    return rows


def _stored(row: ToldAlert) -> Row:
    data = row.model_dump(include={"kind", "subject", "message", "action"})
    return _row(str(row.alert_id), row.at, data, _who(row))


def _row(key: str, at: datetime, data: dict[str, Any], who: parts.Cell) -> Row:
    more = ", ".join(f"{name} {value}" for name, value in (data.get("details") or {}).items())
    return Row(
        key,
        (
            parts.when(at),
            chip(formats.words(data["kind"]), _TONES[severity_of(data["kind"])]),
            _about(data["kind"], data["subject"]),
            cell(data["message"], more=more),
            cell(data["action"]),
            who,
        ),
    )


def _about(kind: str, subject: str) -> parts.Cell:
    """An order is told by the end of its id and leads to its page."""
    try:
        order_id = UUID(subject)
    except ValueError:
        return cell(subject)
    if not kind.startswith("order"):
        return cell(subject)
    return cell(f"order …{subject[-8:]}", to=f"{ROOM}/order/{order_id}", hint=subject)


def _who(row: ToldAlert) -> parts.Cell:
    if row.repeats is not None:
        return cell("said before, with the same words")
    if not row.told:
        return cell("nobody: no channel")
    said = "; ".join(f"{one.channel} {one.state.replace('_', ' ').lower()}" for one in row.told)
    errors = "; ".join(f"{one.channel}: {one.error}" for one in row.told if one.error)
    return cell(said, "down" if any(one.state is Outcome.FAILED for one in row.told) else "", more=errors)


# channels -----------------------------------------------------------------------------------------------------------------


async def _channels(desk: Desk) -> None:
    with parts.card("Channels") as box:
        away = parts.text("", "p", "wrong")
        table = Table("Channels", _CHANNELS, empty=NO_CHANNEL)
        with Element("div").classes("choices"):
            if desk.may(alert_channels.test):
                parts.button("Send a test to each …", lambda: _ask_test(desk), "small")

    def show(seen: Seen) -> None:
        parts.put(away, f"These figures are old: {seen.away}" if seen.away else "")
        parts.old(box, bool(seen.away))
        table.show([_channel(row) for row in seen.value.channels] if seen.value else [])

    await desk.follow("channels", show)


def _channel(row: Channel) -> Row:
    fails = row.failing_since is not None
    state = chip("fails", "bad") if fails else chip("works", "good") if row.last_sent_at else chip("nothing told yet")
    since = f"since {formats.clock(row.failing_since)}" if fails else ""
    return Row(
        row.channel,
        (
            cell(row.channel),
            state,
            parts.when(row.last_sent_at),
            parts.count(row.waiting),
            cell(row.last_error or formats.NONE, more=since) if fails else cell(formats.NONE),
        ),
    )


def _ask_test(desk: Desk) -> None:
    async def work(values: Values, key: str) -> str:
        tried: Tried = await desk.ask(alert_channels.test, Try(reason=values["reason"]), key=key)
        desk.room.live.touch("channels", "alerts")
        bad = [f"{one.channel} did not take it: {one.error}" for one in tried.tested if one.error]
        if bad:
            raise CommandRefused("\n".join(bad))
        return f"{', '.join(one.channel for one in tried.tested)} took the test message."

    words = ["A test message to each channel, quiet hours or not."]
    Question(desk, "Test the alert channels", work, words=words, fields=[reason(required=False)], do="Send")


PAGE = Page("/alerts", "Alerts", build)
