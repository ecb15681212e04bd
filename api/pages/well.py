"""Is all well? One line for each thing a trader's day rests on. What is not known is said to be so, never taken for well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nicegui.element import Element

from api.pages import formats, parts
from api.pages.desk import Desk
from api.pages.facts import FeedAge
from api.pages.live import Seen

FRESH_S = 5
"""Newest prices that are older are told in red."""

Words = tuple[str, str]
"""What to say, and the CSS class of saying it."""


async def well(desk: Desk) -> None:
    with parts.card("Is all well?") as box:
        box.props["id"] = "parts"
        with Element("dl").classes("facts"):
            rows = {fact: _row(name) for fact, name, _ in _LINES}

    def showing(fact: str, say: Callable[[Any], Words]) -> Callable[[Seen], None]:
        def show(seen: Seen) -> None:
            words, tone = say(seen.value) if seen.value is not None and not seen.away else _unknown(seen)
            parts.put(rows[fact], words, tone)

        return show

    for fact, _, say in _LINES:
        await desk.follow(fact, showing(fact, say))


def _row(name: str) -> Element:
    parts.text(name, "dt")
    return parts.text(formats.NONE, "dd")


def _unknown(seen: Seen) -> Words:
    return f"not known: {seen.away}", "bad"


def _parts(rows: Any) -> Words:
    bad = [part for part in rows if not part.ready]
    words = "; ".join(f"{one.name}: {one.reason}" for one in bad)
    return (words, "bad") if bad else (f"all {len(rows)} ready", "")


def feed_words(age: FeedAge) -> Words:
    if age.last is None or age.seconds is None:
        return "no tick since this page was opened", "warn"
    if age.seconds < FRESH_S:
        return f"arriving; the newest is {age.seconds} s old", ""
    return f"none for {formats.span(age.seconds)}; the last at {formats.clock(age.last)}", "bad"


def _session(state: Any) -> Words:
    if not state.valid:
        return "none: log in at the broker", "bad"
    return f"{state.user_id} on {state.target} until {formats.clock(state.expires_at)}", ""


def _budget(left: Any) -> Words:
    words = [
        f"{broker}: {'no limit' if one.left is None else formats.number(one.left)} ({formats.number(one.sent)} sent)"
        for broker, one in left.items()
    ]
    return "; ".join(words), "bad" if any(one.left == 0 for one in left.values()) else ""


def _rounds(found: Any) -> Words:
    words = []
    for one in found.rounds:
        drift = f"{len(one.drifting)} drifting" if one.drifting else "no drift"
        words.append(f"{one.broker} at {formats.clock(one.finished_at)}: {drift if one.judged else 'not judged'}")
    bad = any(not one.judged or one.drifting for one in found.rounds)
    return "; ".join(words) or "not yet", "bad" if bad else ""


def channel_words(found: Any) -> Words:
    if not found.channels:
        return "reach nobody: no channel is set up (Alerts says how)", "warn"
    bad = [one.channel for one in found.channels if one.failing_since is not None]
    if bad:
        return f"{', '.join(bad)} {'takes' if len(bad) == 1 else 'take'} no message", "bad"
    return f"{formats.number(len(found.channels))} channel{'' if len(found.channels) == 1 else 's'}, none fails", ""


_LINES: tuple[tuple[str, str, Callable[[Any], Words]], ...] = (
    ("parts", "Parts", _parts),
    ("feed", "Prices", feed_words),
    ("session", "Broker session", _session),
    ("budget", "Orders left today", _budget),
    ("rounds", "Compared with the broker", _rounds),
    ("channels", "Alerts", channel_words),
)
"""(fact, its name on the page, what to say of it)."""
