"""Alerts as people were told them: the channels and how each is, history, and a test message. Never tells a channel's address."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field

from api.acting import Asking, LinksDep, asks
from api.auth import needs
from api.models import Answer
from api.problems import acting, guarded
from api.requests import Asked
from api.routers.orders import Moment
from control import alerts as control
from control.acts import Act
from core.people.roles import Role, Scope
from core.storage import alerts as storage
from core.storage.alerts import ChannelState, History, Outcome
from core.storage.views import Cursor

router = APIRouter(prefix="/alerts", tags=["events"])
Operating = Annotated[Asking, asks(Role.TRADER, Scope.OPERATIONS)]


class Channel(Answer):
    """A channel by its kind and a hash: its address is a password. `failing_since` empty: it took the last message."""

    channel: str = Field(examples=["json-1f0c2b7a"])
    last_sent_at: datetime | None
    failing_since: datetime | None
    last_error: str | None = Field(examples=["HTTP 403"])
    waiting: int = Field(description="Alerts it has not told yet; quiet hours or a failure hold them.")

    @staticmethod
    def of(state: ChannelState) -> Channel:
        return Channel(**{name: getattr(state, name) for name in Channel.model_fields})


class Channels(Answer):
    """No channel: nobody is told."""

    channels: list[Channel]
    trouble: list[str] = Field(description="One line for each channel that fails.", examples=[[]])


class Telling(Answer):
    """What became of an alert on one channel."""

    channel: str
    state: Outcome
    attempts: int
    error: str | None
    ended_at: datetime | None


class ToldAlert(Answer):
    """An alert and what each channel made of it."""

    alert_id: UUID
    kind: str = Field(examples=["drift"])
    subject: str
    message: str
    action: str = Field(description="What to do about it.")
    source: str
    at: datetime
    repeats: UUID | None = Field(description="The alert with the same words, minutes before, that was told instead.")
    told: list[Telling]

    @staticmethod
    def of(row: History) -> ToldAlert:
        named: dict[str, Any] = {name: getattr(row, name) for name in ToldAlert.model_fields if name != "told"}
        told = [Telling(**{name: getattr(each, name) for name in Telling.model_fields}) for each in row.told]
        return ToldAlert(**named, told=told)


class AlertPage(Answer):
    """Newest first. `next` is the cursor of the following page, None on the last one."""

    alerts: list[ToldAlert]
    next: str | None


class Try(Asked):
    reason: Annotated[str, Field(max_length=500)] = ""


class TriedChannel(Answer):
    channel: str
    error: str | None = Field(description="Why it did not take the message; empty where it did.")


class Tried(Answer):
    """What each channel made of the test. `in_history` False: the database was away."""

    tested: list[TriedChannel]
    in_history: bool


@router.get("/channels", summary="Alert channels", dependencies=[needs(Role.VIEWER)], responses=guarded())
async def channels(links: LinksDep) -> Channels:
    """How each channel of the running alert-sender is, and how many alerts wait for it."""
    states = await control.channel_states(links.config)
    return Channels(channels=[Channel.of(each) for each in states], trouble=control.trouble(states))


@router.get("/history", summary="Alerts and who was told", dependencies=[needs(Role.VIEWER)], responses=guarded())
async def history(
    links: LinksDep,
    kind: Annotated[str | None, Query(max_length=64, examples=["drift"])] = None,
    state: Annotated[Outcome | None, Query(description="Those that came to this on some channel.")] = None,
    since: Annotated[Moment | None, Query(description="Raised at or after, with a time zone.")] = None,
    cursor: Annotated[str | None, Query(max_length=300)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> AlertPage:
    """The last 90 days. `/alerts` has the newest as the log tells them, also while no alert-sender runs."""
    after = Cursor.decode(cursor) if cursor is not None else None
    before = (after.created_at, after.order_id) if after is not None else None
    rows = await storage.history(links.config, kind=kind, since=since, before=before, state=state, limit=limit + 1)
    page = rows[:limit]
    following = Cursor(page[-1].at, page[-1].alert_id).encode() if len(rows) > limit else None
    return AlertPage(alerts=[ToldAlert.of(row) for row in page], next=following)


@router.post("/test", summary="Try every alert channel", responses=acting())
async def test(asked: Try, asking: Operating) -> Tried:
    """A test message to each channel of ALERT_URLS, quiet hours or not; 422 where there is none. No other address can be given."""

    async def work(act: Act) -> Tried:
        tested, kept = await control.try_channels(asking.links.settings, asking.links.config, act)
        rows = [TriedChannel(channel=each.channel, error=each.error) for each in tested]
        return Tried(tested=rows, in_history=kept)

    return await asking.once(Tried, asked.reason, work)
