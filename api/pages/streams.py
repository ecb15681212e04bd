"""The log: who is behind on what, and the dead letters with their way back."""

from __future__ import annotations

import base64
import json
from typing import Any

from api.pages import formats, parts
from api.pages.desk import Desk
from api.pages.dialogs import Field, Question, Values, reason
from api.pages.live import Seen
from api.pages.page import Page
from api.pages.parts import Act, Column, Row, Table, cell, chip
from api.routers import operations
from api.routers.operations import DeadLetter, LetterOutcomes, Letters
from core.errors import CommandRefused

BEHIND = 100
"""Records a group may be behind before it is told in another colour."""

_TOPICS = (
    Column("Topic"),
    Column("Partitions", "num"),
    Column("Records", "num"),
    Column("Behind", "num"),
    Column("Who is behind", "wide"),
    Column("Dead letters", "num"),
)
_LETTERS = (
    Column("Failed"),
    Column("Letter"),
    Column("What"),
    Column("Why", "wide"),
    Column("Group"),
    Column("", sorts=False),
)


async def build(desk: Desk) -> None:
    await _letters(desk)
    with parts.card("Topics") as box:
        away = parts.text("", "p", "wrong")
        table = Table("Topics", _TOPICS, empty="The log is not read: look at Today, which part is not ready.")

    def show(seen: Seen) -> None:
        parts.put(away, f"These figures are old: {seen.away}" if seen.away else "")
        parts.old(box, bool(seen.away))
        table.show([_topic(one) for one in seen.value.topics] if seen.value else [])

    await desk.follow("streams", show)


def _topic(one: Any) -> Row:
    behind = sum(one.lag.values())
    who = ", ".join(
        f"{group.removeprefix('alpha-panda.')} {formats.number(lag)}" for group, lag in sorted(one.lag.items()) if lag
    )
    dead = cell(formats.NONE, order=-1) if one.dlq is None else parts.count(one.dlq, "down" if one.dlq else "")
    return Row(
        one.topic,
        (
            cell(one.topic),
            parts.count(one.partitions),
            parts.count(one.end_offset),
            parts.count(behind, "warn" if behind > BEHIND else "")
            | ({"more": "far behind"} if behind > BEHIND else {}),
            cell(who or formats.NONE),
            dead,
        ),
        "bad" if one.dlq else "",
    )


async def _letters(desk: Desk) -> None:
    may = desk.may(operations.replay)
    known: dict[str, DeadLetter] = {}

    async def acted(key: str, act: str) -> None:
        if act == "show":
            await _show(desk, key)
        elif key in known:
            _ask(desk, known[key], act)

    with parts.card("Dead letters") as box:
        parts.text("Events no service could handle. Mend the cause, then send them again as they were.", "p", "quiet")
        away = parts.text("", "p", "wrong")
        table = Table("Dead letters", _LETTERS, empty="None: every event was handled.", on_act=acted)

    def show(seen: Seen) -> None:
        parts.put(away, f"These figures are old: {seen.away}" if seen.away else "")
        parts.old(box, bool(seen.away))
        rows = seen.value.letters if seen.value else []
        known.clear()
        known.update({row.letter: row for row in rows})
        table.show([_letter(row, may) for row in rows])

    await desk.follow("letters", show)


def _letter(row: DeadLetter, may: bool) -> Row:
    acts = [Act("show", "Show", f"Show {row.letter}")]
    if may:
        acts += [Act("replay", "Replay …", f"Replay {row.letter}"), Act("drop", "Drop …", f"Drop {row.letter}")]
    return Row(
        row.letter,
        (
            parts.when(row.failed_at),
            cell(row.letter),
            chip(row.type or "unreadable"),
            cell(row.reason, more=f"after {row.attempts} attempts" if row.attempts else ""),
            cell(row.consumer_group.removeprefix("alpha-panda.")),
            parts.acts(*acts),
        ),
    )


async def _show(desk: Desk, name: str) -> None:
    found, wrong = await desk.attempt(operations.show_letter(name, desk.room.links))
    if wrong:
        return parts.said(wrong, bad=True)
    raw = base64.b64decode(found.value_base64)
    try:
        body = json.dumps(json.loads(raw), indent=2, ensure_ascii=False)
    except ValueError:
        body = raw.decode(errors="backslashreplace")

    async def nothing(_: Values, __: str) -> str:
        return ""

    headers = "\n".join(f"{key}: {value}" for key, value in sorted(found.headers.items()))
    shown = Question(desk, found.letter, nothing, words=[found.reason], do="Close")
    shown.add(lambda: (parts.text(headers, "pre"), parts.text(body, "pre")))


def _ask(desk: Desk, row: DeadLetter, act: str) -> None:
    replay = act == "replay"

    async def work(values: Values, key: str) -> str:
        asked = Letters(letters=[row.letter], reason=values["reason"], force=bool(values.get("force")))
        answer: LetterOutcomes = await desk.ask(operations.replay if replay else operations.drop, asked, key=key)
        desk.room.live.touch("letters", "streams")
        said = "; ".join(one.outcome for one in answer.outcomes)
        if "refused" in said:
            raise CommandRefused(said)
        return f"{row.letter}: {said}"

    words = (
        ["Same key, same bytes, same id: what it did already is not done again."]
        if replay
        else ["It is closed without being handled."]
    )
    force = Field("force", "Also a signal for real money that is not too old", kind="checkbox", value=False)
    fields = [force, reason()] if replay else [reason()]
    title = f"{'Replay' if replay else 'Drop'} {row.letter}"
    Question(desk, title, work, words=[row.reason, *words], fields=fields, do=act.capitalize(), danger=not replay)


PAGE = Page("/streams", "Streams", build)
