"""The kill switch on Today: engaged by holding a button, or by typing a word where one cannot hold; released by an admin, typed."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from nicegui.element import Element

from api.pages import formats, parts
from api.pages.desk import Desk
from api.pages.dialogs import Field, Question, Values, reason
from api.pages.live import Seen
from api.pages.parts import HoldButton
from api.routers import operations
from api.routers.operations import KILL_WORD, RELEASE_WORD, Engage, KillStates, Release, Switched
from core.trading.types import Broker

HELD = "held down on Today"
WHOLE = "the whole account"


async def build(desk: Desk) -> None:
    with parts.card("Kill switch", "kill") as box:
        box.props["id"] = "kill"
        parts.text("Stops all entries at once, cancels our orders and closes our positions. Exits go on.", "p", "quiet")
        state = Element("div").props('role="status"')
        with Element("div").classes("choices"):
            if desk.may(operations.engage):
                HoldButton("Hold to stop everything", lambda: _engage_all(desk))
                parts.button("Type it instead …", lambda: _ask_engage(desk), "small")
            else:
                parts.text("Traders and admins may engage it.", "p", "quiet")
            release = parts.button("Release …", lambda: _ask_release(desk), "hidden")
    shown: list[Any] = [None]

    def show(seen: Seen) -> None:
        lines = ["Its state is not known: " + seen.away] if seen.value is None else _lines(seen.value)
        engaged = seen.value is not None and _engaged(seen.value)
        may = desk.may(operations.release)
        parts.offer(release, engaged and may)
        if lines == shown[0]:
            return
        shown[0] = lines
        state.clear()
        with state:
            if not lines:
                parts.text("Not engaged.", "p", "calm")
            for line in lines:
                parts.text(line, "p", "wrong")
            if engaged and not may:
                parts.text("An admin may release it.", "p", "quiet")

    await desk.follow("kill", show)


def _engaged(states: KillStates) -> bool:
    return any(row.account_flag is not None or row.strategy_flags or row.switches for row in states.brokers)


def _lines(states: KillStates) -> list[str]:
    """One line a switch; flags that no switch stands behind get their own."""
    lines = []
    for row in states.brokers:
        for switch in row.switches:
            did = "cancelled and closed what it could" if switch.finished_at else "still cancelling and closing"
            whom, since = switch.strategy_id or WHOLE, formats.clock(switch.engaged_at)
            lines.append(
                f"ENGAGED on {row.broker}, {whom}, since {since} by {switch.requested_by}: {switch.reason}; {did}"
            )
        behind = {switch.strategy_id for switch in row.switches}
        if row.account_flag is not None and None not in behind:
            lines.append(f"ENGAGED on {row.broker}, {WHOLE}: {row.account_flag}")
        flags = sorted(row.strategy_flags.items())
        lines += [f"ENGAGED on {row.broker}, {name}: {why}" for name, why in flags if name not in behind]
    return lines


async def _engage_all(desk: Desk) -> None:
    asked = Engage(typed=KILL_WORD, reason=HELD)
    answer, wrong = await desk.attempt(desk.ask(operations.engage, asked, key=uuid4().hex))
    desk.room.live.touch("kill")
    with desk.client:
        parts.said(wrong or _told(answer), bad=bool(wrong or answer.trouble))


def _told(answer: Switched) -> str:
    done = ", ".join(f"{one.broker} ({one.strategy_id or WHOLE})" for one in answer.switches)
    trouble = "; ".join(f"{broker}: {words}" for broker, words in answer.trouble.items())
    return f"Engaged: {done}." + (f" Trouble: {trouble}" if trouble else "")


def _scope(desk: Desk, strategies: list[str]) -> list[Field]:
    brokers = {"": "all brokers"} | {broker.value: broker.value for broker in desk.room.settings.active_brokers}
    names = {"": WHOLE} | {name: name for name in strategies}
    return [Field("broker", "Broker", options=brokers), Field("strategy", "Whom", options=names)]


async def _strategy_names(desk: Desk) -> list[str]:
    seen = await desk.room.live.get("strategies")
    return [row.strategy_id for row in seen.value.strategies] if seen.value else []


async def _ask_engage(desk: Desk) -> None:
    async def work(values: Values, key: str) -> str:
        asked = Engage(
            broker=Broker(values["broker"]) if values["broker"] else None,
            strategy=values["strategy"] or None,
            include_foreign=bool(values["foreign"]),
            typed=values["typed"].strip(),
            reason=values["reason"],
        )
        answer = await desk.ask(operations.engage, asked, key=key)
        desk.room.live.touch("kill")
        return _told(answer)

    foreign = Field("foreign", "Also what is not ours (made in the Kite app)", kind="checkbox", value=False)
    names = await _strategy_names(desk)
    Question(
        desk,
        "Engage the kill switch",
        work,
        words=["No entry is decided or sent from that moment on. Our orders are cancelled, our positions closed."],
        fields=[*_scope(desk, names), foreign, reason()],
        do="Engage",
        danger=True,
        typed=KILL_WORD,
    )


async def _ask_release(desk: Desk) -> None:
    async def work(values: Values, key: str) -> str:
        asked = Release(
            broker=Broker(values["broker"]) if values["broker"] else None,
            strategy=values["strategy"] or None,
            force=bool(values["force"]),
            typed=values["typed"].strip(),
            reason=values["reason"],
        )
        answer = await desk.ask(operations.release, asked, key=key)
        desk.room.live.touch("kill")
        done = ", ".join(f"{one.broker} ({one.strategy_id or WHOLE})" for one in answer.switches)
        return f"Released{': ' + done if done else ''}. Entries may go again."

    force = Field("force", "Also while it still works: what is open then stays open", kind="checkbox", value=False)
    names = await _strategy_names(desk)
    Question(
        desk,
        "Release the kill switch",
        work,
        words=["Entries may go again from that moment on."],
        fields=[*_scope(desk, names), force, reason()],
        do="Release",
        danger=True,
        typed=RELEASE_WORD,
    )
