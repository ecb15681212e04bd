"""`alpha-panda dlq`: look at dead letters, send them again as they were, or close them. Acts only with --yes."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Union

import typer

from cli import remote, show
from cli.acting import act, acting
from cli.progress import console
from core.errors import StopTheStart

if TYPE_CHECKING:
    from cli.remote_operations import RemoteLetters
    from control.acts import Act
    from control.connections import Connections
    from core.messaging.dlq_letters import Letter, Wanted

SHOWN_BYTES = 4000
"""Bytes of a letter that `show` prints; --json has all of them."""

Letters = Union["_Ours", "RemoteLetters"]
Work = Callable[[Letters, "list[Letter]"], Awaitable[None]]

LETTERS = typer.Argument(None, metavar="[LETTER]...", help="As `dlq list` names them: TOPIC/PARTITION/OFFSET.")
TOPIC = typer.Option(None, help="Letters of this topic alone.")
REASON = typer.Option(None, help="Words in the reason they died of (stage, error or message).")
SINCE = typer.Option(
    None, help="Died at or after: 2h, 30m, 7d ago, or 2026-10-07T09:15 (IST unless it says otherwise)."
)
UNTIL = typer.Option(None, help="Died before; written like --since.")
YES = typer.Option(False, "--yes", help="Do it. Without it nothing happens but a list of what would.")
BY = typer.Option(None, help="Who does it, for the record; you, unless given.")
NOTE = typer.Option("", help="Why, for the record.")
JSON = typer.Option(False, "--json", help="JSON instead of text.")


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Dead letters: events no service could handle.")
    app.add_typer(group, name="dlq")

    @group.command("list")
    def list_(
        topic: str | None = TOPIC,
        reason: str | None = REASON,
        since: str | None = SINCE,
        until: str | None = UNTIL,
        closed: bool = typer.Option(False, "--closed", help="Also those replayed or dropped already."),
        as_json: bool = JSON,
    ) -> None:
        """List open dead letters with what they died of, the oldest first."""
        wanted = _wanted([], topic, reason, since, until)

        async def work(_: Letters, letters: list[Letter]) -> None:
            rows = [each for each in letters if wanted.matches(each) and (closed or each.closed is None)]
            _print(rows, as_json)

        _run(work)

    @group.command("show")
    def show_(
        letter: str = typer.Argument(metavar="LETTER", help="As `dlq list` names it: TOPIC/PARTITION/OFFSET."),
        as_json: bool = JSON,
    ) -> None:
        """Show one letter: reason, headers, the original bytes."""

        async def work(shelf: Letters, letters: list[Letter]) -> None:
            from control.dead_letters import named

            _print_one(await shelf.whole(named(letters, [letter])[0]), as_json)

        _run(work)

    @group.command()
    def replay(
        letters: list[str] = LETTERS,
        topic: str | None = TOPIC,
        reason: str | None = REASON,
        since: str | None = SINCE,
        until: str | None = UNTIL,
        force: bool = typer.Option(False, "--force", help="Also signals for real money that are not too old."),
        yes: bool = YES,
        by: str | None = BY,
        note: str = NOTE,
        as_json: bool = JSON,
    ) -> None:
        """Send letters to their topics again: same key, same bytes, same id. Without --yes it says what it would do.

        Everyone who reads the topic gets them again and knows them by their id; who could not handle them tries once more. A signal
        for real money needs --force and is never replayed past its strategy's age limit.
        """
        wanted = _wanted(letters, topic, reason, since, until)
        asked = act(by, note)
        _run(lambda shelf, found: _replay(shelf, found, wanted, asked, force, yes, as_json))

    @group.command()
    def drop(
        letters: list[str] = LETTERS,
        topic: str | None = TOPIC,
        reason: str | None = REASON,
        since: str | None = SINCE,
        until: str | None = UNTIL,
        yes: bool = YES,
        by: str | None = BY,
        note: str = NOTE,
        as_json: bool = JSON,
    ) -> None:
        """Close letters without sending them; their bytes stay on the log for its 90 days. Without --yes it says what it would do."""
        wanted = _wanted(letters, topic, reason, since, until)
        asked = act(by, note)
        _run(lambda shelf, found: _drop(shelf, found, wanted, asked, yes, as_json))


class _Ours:
    """`control.dead_letters` on this machine."""

    def __init__(self, links: Connections) -> None:
        self._links = links

    async def letters(self) -> list[Letter]:
        from control import dead_letters

        return await dead_letters.letters(self._links)

    async def whole(self, letter: Letter) -> Letter:
        return letter

    async def replay(
        self, asked: Act, meant: Sequence[Letter], *, force: bool, really: bool = True
    ) -> list[tuple[Letter, str]]:
        from control import dead_letters

        return await dead_letters.replay(self._links, asked, meant, force=force, really=really)

    async def drop(self, asked: Act, meant: Sequence[Letter]) -> list[tuple[Letter, str]]:
        from control import dead_letters

        return await dead_letters.drop(self._links, asked, meant)


def _run(work: Work) -> None:
    """Read every letter, here or at a control room, and work on them.

    Raises:
        AlphaPandaError: what is missing or away.
    """
    if remote.is_on():
        from cli.remote_operations import RemoteLetters

        remote.asking(lambda api: _with(RemoteLetters(api), work))
    else:
        acting(lambda links: _with(_Ours(links), work))


async def _with(shelf: Letters, work: Work) -> None:
    await work(shelf, await shelf.letters())


# Which letters ---------------------------------------------------------------------------------------------------------


def moment(text: str, now: datetime) -> datetime:
    """`2h`, `30m`, `45s` or `7d` before now, or an ISO time, in IST unless it names a zone.

    Raises:
        StopTheStart: neither of them.
    """
    from core.clock import IST

    if found := re.fullmatch(r"(\d+)([smhd])", text):
        unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[found[2]]
        return now - timedelta(**{unit: int(found[1])})
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise StopTheStart(f"{text!r} is no time: write 2h, 30m, 7d or 2026-10-07T09:15") from None
    return parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=IST)


def _wanted(
    names: list[str] | None, topic: str | None, reason: str | None, since: str | None, until: str | None
) -> Wanted:
    from core.clock import utc_now
    from core.messaging.dlq_letters import Wanted

    now = utc_now()
    return Wanted(
        frozenset(names or ()),
        topic,
        reason,
        moment(since, now) if since else None,
        moment(until, now) if until else None,
    )


# Acting ----------------------------------------------------------------------------------------------------------------


async def _replay(
    shelf: Letters, letters: list[Letter], wanted: Wanted, asked: Act, force: bool, yes: bool, as_json: bool
) -> None:
    from control.dead_letters import pick

    outcomes = await shelf.replay(asked, pick(letters, wanted), force=force, really=yes)
    _print_outcomes(outcomes, yes, as_json)
    if any(said.startswith("refused") for _, said in outcomes):
        raise typer.Exit(1)


async def _drop(shelf: Letters, letters: list[Letter], wanted: Wanted, asked: Act, yes: bool, as_json: bool) -> None:
    from control.dead_letters import pick

    meant = pick(letters, wanted)
    outcomes = await shelf.drop(asked, meant) if yes else [(each, "would be dropped") for each in meant]
    _print_outcomes(outcomes, yes, as_json)


# Showing ---------------------------------------------------------------------------------------------------------------


def row_of(letter: Letter) -> dict[str, Any]:
    """A letter as JSON tells it, without its bytes."""
    return {
        "letter": letter.name,
        "topic": letter.topic,
        "key": letter.record.key.decode(errors="replace"),
        "event_id": letter.event_id,
        "type": letter.record.headers.get("type", b"").decode(errors="replace"),
        "failed_at": letter.failed_at.isoformat(),
        "stage": letter.why("stage"),
        "error_type": letter.why("error-type"),
        "error": letter.why("error-message"),
        "attempts": letter.why("attempts"),
        "consumer_group": letter.why("consumer-group"),
        "state": letter.closed.action.value if letter.closed else "OPEN",
        "by": letter.closed.by if letter.closed else None,
        "note": letter.closed.note if letter.closed else None,
    }


def _print(letters: list[Letter], as_json: bool) -> None:
    if as_json:
        show.print_rows([row_of(letter) for letter in letters])
        return
    if not letters:
        console.print("No dead letters.")
        return
    from core.clock import utc_now

    shown = show.table(
        ("letter", "left"), ("died (IST)", "left"), ("state", "left"), ("reader", "left"), ("reason", "fold")
    )
    for letter in letters:
        shown.add_row(
            show.text(letter.name),
            show.ist_short(letter.failed_at, utc_now()),
            letter.closed.action.value if letter.closed else "OPEN",
            show.text(letter.why("consumer-group").removeprefix("alpha-panda.")),
            show.text(letter.reason),
        )
    show.put(shown)
    console.print("`alpha-panda dlq show LETTER` has the bytes; `dlq replay` and `dlq drop` close letters.")


def _print_one(letter: Letter, as_json: bool) -> None:
    headers = {name: value.decode(errors="backslashreplace") for name, value in letter.record.headers.items()}
    if as_json:
        import base64

        show.print_json(
            row_of(letter) | {"headers": headers, "value_base64": base64.b64encode(letter.record.value).decode()}
        )
        return
    for name, value in row_of(letter).items():
        if value not in (None, ""):
            console.print(f"  [bold]{name}[/]: {show.text(value)}", soft_wrap=True)
    for name, value in headers.items():
        console.print(f"  [dim]{show.text(name)}[/]: {show.text(value)}", soft_wrap=True)
    console.print(show.text(letter.record.value[:SHOWN_BYTES].decode(errors="backslashreplace")), soft_wrap=True)
    if len(letter.record.value) > SHOWN_BYTES:
        console.print(f"… {len(letter.record.value) - SHOWN_BYTES} bytes more: --json has all, in base64")


def _print_outcomes(outcomes: list[tuple[Letter, str]], yes: bool, as_json: bool) -> None:
    if as_json:
        show.print_rows([row_of(letter) | {"outcome": said} for letter, said in outcomes])
        return
    for letter, said in outcomes:
        console.print(f"  {show.text(letter.name)}: {show.text(said)}", soft_wrap=True)
    if not outcomes:
        console.print("No open dead letter is meant.")
    elif not yes:
        console.print("Nothing was done: add --yes to do it.")
