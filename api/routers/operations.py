"""Kill switch, reconciliation, dead letters and the broker's session: what keeps trading safe. Each act is audited."""

from __future__ import annotations

import base64
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import Field, SecretStr

from api.acting import Asking, LinksDep, asks
from api.auth import needs, open_to_all, origin_of
from api.deps import SettingsDep
from api.models import Answer, Round
from api.problems import acting, documented, guarded
from api.requests import Asked
from control import broker_session, dead_letters, reconciliation
from control import kill as control_kill
from control.acts import Act
from core.brokers import kite_http
from core.clock import utc_now
from core.errors import AlphaPandaError, NotAllowed, Transient
from core.ids import new_id
from core.messaging.dlq_letters import Letter, Wanted
from core.people import tokens
from core.people.roles import Actor, Role, Scope
from core.storage import users
from core.storage.kill import KillRecord
from core.trading.types import Broker

router = APIRouter(tags=["operations"])
Engaging = Annotated[Asking, asks(Role.TRADER, Scope.RISK)]
Releasing = Annotated[Asking, asks(Role.ADMIN, Scope.RISK)]
Operating = Annotated[Asking, asks(Role.TRADER, Scope.OPERATIONS)]
ViewerOnly = needs(Role.VIEWER)

Reason = Annotated[str, Field(min_length=1, max_length=500, examples=["prices look wrong"])]
Why = Annotated[str, Field(max_length=500)]

STATE = "alpha_panda_state"
KILL_WORD, RELEASE_WORD = "kill", "release"


# kill switch -----------------------------------------------------------------------------------------------------------


class Switch(Answer):
    """A kill switch. `finished_at` empty: it still cancels and closes. `report` says what it did and what is still open."""

    kill_id: str
    broker: Broker
    account: str
    strategy_id: str | None
    requested_by: str
    reason: str
    include_foreign: bool
    engaged_at: datetime
    finished_at: datetime | None
    report: dict[str, Any] | None
    released_at: datetime | None
    released_by: str | None
    release_reason: str | None

    @staticmethod
    def of(broker: Broker, record: KillRecord) -> Switch:
        named = {name: getattr(record, name) for name in Switch.model_fields if name not in {"kill_id", "broker"}}
        return Switch(kill_id=str(record.kill_id), broker=broker, **named)


class KillState(Answer):
    """A broker's flags: of the whole account, and of single strategies, each with its reason; and the switches behind them."""

    broker: Broker
    account_flag: str | None
    strategy_flags: dict[str, str]
    switches: list[Switch]


class KillStates(Answer):
    brokers: list[KillState]


class Engage(Asked):
    """Stop entries, cancel our orders, close our positions."""

    broker: Broker | None = Field(default=None, description="One broker; all active ones without it.")
    strategy: str | None = Field(
        default=None, min_length=1, max_length=64, description="Without it, the whole account."
    )
    include_foreign: bool = Field(default=False, description="Also cancel and close what is not ours.")
    typed: str = Field(
        max_length=32, description=f"`{KILL_WORD}`, as the person held or typed it.", examples=[KILL_WORD]
    )
    reason: Reason


class Release(Asked):
    """Let entries go again."""

    broker: Broker | None = None
    strategy: str | None = Field(default=None, min_length=1, max_length=64)
    force: bool = Field(default=False, description="Also while it still works; what is open then stays open.")
    typed: str = Field(max_length=32, description=f"`{RELEASE_WORD}`, as the person typed it.", examples=[RELEASE_WORD])
    reason: Reason


class Switched(Answer):
    """What was done, broker by broker. One that is in trouble never keeps another."""

    switches: list[Switch]
    trouble: dict[str, str] = Field(description="By broker: what did not work, and what to do.")


@router.get("/kill-switch", summary="Kill switches", dependencies=[ViewerOnly], responses=guarded())
async def kill_state(links: LinksDep) -> KillStates:
    """The flags as the journal has them, and what each switch has done and waits for."""
    rows = []
    for broker in links.settings.active_brokers:
        found = await control_kill.state(links, broker)
        rows.append(
            KillState(
                broker=broker,
                account_flag=found.account_flag,
                strategy_flags=dict(found.strategy_flags),
                switches=[Switch.of(broker, record) for record in found.open],
            )
        )
    return KillStates(brokers=rows)


@router.post("/kill-switch/engage", status_code=202, summary="Engage the kill switch", responses=acting())
async def engage(asked: Engage, asking: Engaging) -> Switched:
    """The flag is set before this answers: no entry is decided or sent from now on. Cancelling and closing goes on by itself."""
    _typed(asked.typed, KILL_WORD)
    if asked.include_foreign and asked.strategy is not None:
        raise HTTPException(422, "include_foreign: is of a whole account; leave strategy out")

    async def work(act: Act) -> Switched:
        switches, trouble = [], {}
        for broker in _brokers(asking, asked.broker):
            try:
                record = await control_kill.engage(
                    asking.links, act, broker, asked.strategy, include_foreign=asked.include_foreign
                )
                switches.append(Switch.of(broker, record))
                await control_kill.work(asking.links, broker, record)
            except Transient as error:
                trouble[broker.value] = (
                    f"{error}; where the flag is set it binds all the same, and the order worker goes on"
                )
            except AlphaPandaError as error:
                trouble[broker.value] = str(error)
        if not switches:
            raise Transient("; ".join(f"{broker}: {words}" for broker, words in trouble.items()))
        return Switched(switches=switches, trouble=trouble)

    return await asking.once(Switched, asked.reason, work)


@router.post("/kill-switch/release", summary="Release the kill switch", responses=acting())
async def release(asked: Release, asking: Releasing) -> Switched:
    """Only an admin, typed. Refused (409) while it still works, unless forced."""
    _typed(asked.typed, RELEASE_WORD)

    async def work(act: Act) -> Switched:
        switches = []
        for broker in _brokers(asking, asked.broker):
            found = await control_kill.release(asking.links, act, broker, asked.strategy, force=asked.force)
            switches += [Switch.of(broker, record) for record in found]
        return Switched(switches=switches, trouble={})

    return await asking.once(Switched, asked.reason, work)


def _brokers(asking: Asking, broker: Broker | None) -> tuple[Broker, ...]:
    return asking.links.settings.active_brokers if broker is None else (broker,)


def _typed(typed: str, word: str) -> None:
    if typed != word:
        raise HTTPException(422, f"typed: write {word} to do it; nothing was done")


# reconciliation ----------------------------------------------------------------------------------------------------------


class RunNow(Asked):
    broker: Broker
    reason: Why = ""


class RoundAsked(Answer):
    """The round carries `request_id`; `round` is there where it came within `wait`."""

    request_id: str
    round: Round | None


@router.post("/reconciliation/run", status_code=202, summary="Compare with the broker now", responses=acting())
async def run(
    asked: RunNow, asking: Operating, wait: Annotated[float, Query(ge=0, le=90, description="Seconds to wait.")] = 0.0
) -> RoundAsked:
    """Read book, trades and positions and hold them against the journal. Without `wait`, look at `/reconciliation` later."""

    async def work(act: Act) -> RoundAsked:
        request_id = await reconciliation.ask(asking.links, act, asked.broker)
        found = None
        if wait:
            try:
                got = await reconciliation.answer(asking.links, asked.broker, request_id, within_s=wait)
            except Transient:
                pass  # asked for all the same: it comes, and /reconciliation shows it
            else:
                found = Round(**got.model_dump(), broker=asked.broker)
        return RoundAsked(request_id=str(request_id), round=found)

    return await asking.once(RoundAsked, asked.reason, work)


# dead letters ------------------------------------------------------------------------------------------------------------


class DeadLetter(Answer):
    """An event no service could handle. `letter` names it: TOPIC/PARTITION/OFFSET."""

    letter: str
    topic: str
    key: str
    event_id: str | None
    type: str
    failed_at: datetime
    reason: str = Field(description="Stage, error and message in one line.")
    stage: str = Field(description="decode, validate, handle or publish.")
    error_type: str
    error: str
    attempts: str
    consumer_group: str
    state: str = Field(description="OPEN, REPLAYED or DROPPED.")
    by: str | None
    note: str | None

    @staticmethod
    def of(letter: Letter) -> DeadLetter:
        return DeadLetter(**_letter(letter))


class DeadLetterDetail(DeadLetter):
    headers: dict[str, str]
    value_base64: str = Field(description="The original bytes.")


class DeadLetters(Answer):
    letters: list[DeadLetter] = Field(description="Oldest first.")


class Letters(Asked):
    letters: list[Annotated[str, Field(max_length=300)]] = Field(
        min_length=1, max_length=500, examples=[["paper.signals.raw/3/41"]]
    )
    reason: Reason
    force: bool = Field(default=False, description="Also signals for real money that are not too old.")
    dry_run: bool = Field(default=False, description="Only say what would become of each.")


class LetterOutcome(Answer):
    letter: str
    outcome: str


class LetterOutcomes(Answer):
    outcomes: list[LetterOutcome]


@router.get("/dead-letters", summary="Dead letters", dependencies=[ViewerOnly], responses=guarded())
async def list_letters(
    links: LinksDep,
    topic: Annotated[str | None, Query(max_length=200)] = None,
    closed: Annotated[bool, Query(description="Also those replayed or dropped already.")] = False,
) -> DeadLetters:
    """What no service could handle, with what it died of."""
    wanted = Wanted(topic=topic)
    found = await dead_letters.letters(links)
    rows = [DeadLetter.of(each) for each in found if wanted.matches(each) and (closed or each.closed is None)]
    return DeadLetters(letters=rows)


@router.get("/dead-letters/{letter:path}", summary="One dead letter", dependencies=[ViewerOnly], responses=guarded(404))
async def show_letter(letter: str, links: LinksDep) -> DeadLetterDetail:
    """Its headers and the original bytes."""
    found = dead_letters.named(await dead_letters.letters(links), [letter])[0]
    headers = {name: value.decode(errors="backslashreplace") for name, value in found.record.headers.items()}
    value = base64.b64encode(found.record.value).decode()
    return DeadLetterDetail(**_letter(found), headers=headers, value_base64=value)


@router.post("/dead-letters/replay", summary="Send dead letters again", responses=acting(404))
async def replay(asked: Letters, asking: Operating) -> LetterOutcomes:
    """Same key, same bytes, same id. A signal for real money needs `force` and is never replayed past its age limit."""

    async def work(act: Act) -> LetterOutcomes:
        meant = dead_letters.pick(await dead_letters.letters(asking.links), Wanted(names=frozenset(asked.letters)))
        really = not asked.dry_run
        return _outcomes(await dead_letters.replay(asking.links, act, meant, force=asked.force, really=really))

    return await asking.once(LetterOutcomes, asked.reason, work)


@router.post("/dead-letters/drop", summary="Close dead letters", responses=acting(404))
async def drop(asked: Letters, asking: Operating) -> LetterOutcomes:
    """Without sending them; their bytes stay on the log until its retention ends."""

    async def work(act: Act) -> LetterOutcomes:
        meant = dead_letters.pick(await dead_letters.letters(asking.links), Wanted(names=frozenset(asked.letters)))
        if asked.dry_run:
            return _outcomes([(each, "would be dropped") for each in meant])
        return _outcomes(await dead_letters.drop(asking.links, act, meant))

    return await asking.once(LetterOutcomes, asked.reason, work)


def _outcomes(found: list[tuple[Letter, str]]) -> LetterOutcomes:
    return LetterOutcomes(outcomes=[LetterOutcome(letter=each.name, outcome=said) for each, said in found])


def _letter(letter: Letter) -> dict[str, Any]:
    return {
        "letter": letter.name,
        "topic": letter.topic,
        "key": letter.record.key.decode(errors="replace"),
        "event_id": letter.event_id,
        "type": letter.record.headers.get("type", b"").decode(errors="replace"),
        "failed_at": letter.failed_at,
        "reason": letter.reason,
        "stage": letter.why("stage"),
        "error_type": letter.why("error-type"),
        "error": letter.why("error-message"),
        "attempts": letter.why("attempts"),
        "consumer_group": letter.why("consumer-group"),
        "state": letter.closed.action.value if letter.closed else "OPEN",
        "by": letter.closed.by if letter.closed else None,
        "note": letter.closed.note if letter.closed else None,
    }


# the broker's session ----------------------------------------------------------------------------------------------------


class BrokerSession(Answer):
    """The day's session with the broker, as our file has it; the token itself is never told."""

    target: str
    user_id: str | None
    login_time: datetime | None
    expires_at: datetime | None
    valid: bool
    login_url: str = Field(description="Open it, log in there, and bring back the address the browser ends on.")
    simulated: bool


class LogIn(Asked):
    redirect: SecretStr | None = Field(
        default=None,
        max_length=2000,
        description="The whole address the browser ended on. On `local` nothing is needed.",
    )
    reason: Why = ""


class LogOut(Asked):
    reason: Reason


@router.get("/broker-session", summary="The broker's session", dependencies=[ViewerOnly], responses=guarded())
async def session(links: LinksDep) -> BrokerSession:
    """Whose, until when, and where to log in."""
    return BrokerSession(**asdict(broker_session.state(links.settings)))


class LoginLink(Answer):
    """Good for ten minutes. The redirect comes back to `/broker-session/callback` where that is the app's redirect address at Kite."""

    login_url: str


@router.get("/broker-session/link", summary="A link to log in at the broker", responses=guarded())
async def link(actor: Annotated[Actor, needs(Role.TRADER, Scope.OPERATIONS)], settings: SettingsDep) -> LoginLink:
    """Carries who began it there and back."""
    assert actor.user_id is not None
    state = tokens.login_state(settings.api_jwt_secret, actor.user_id, utc_now())
    return LoginLink(login_url=f"{kite_http.login_url(settings)}&redirect_params={quote(f'{STATE}={state}')}")


_BACK = "<!doctype html><html lang=en><meta charset=utf-8><title>Alpha Panda</title><h1>Logged in</h1><p>You can close this page."


@router.get(
    "/broker-session/callback",
    summary="Where the broker sends the browser back",
    dependencies=[open_to_all],
    response_class=HTMLResponse,
    responses=documented(401, 403, 422, 502, 503),
)
async def callback(
    request: Request,
    links: LinksDep,
    settings: SettingsDep,
    alpha_panda_state: Annotated[str, Query(max_length=300)],
    request_token: Annotated[str, Query(max_length=200)] = "",
    status: Annotated[str, Query(max_length=40)] = "success",
) -> HTMLResponse:
    """Open, since a browser sent from elsewhere brings no cookie of ours: the state says who began it within ten minutes."""
    user_id = tokens.read_login_state(settings.api_jwt_secret, alpha_panda_state, utc_now())
    user = next((each for each in await users.list_users(links.config) if each.user_id == user_id), None)
    if user is None or not user.enabled or not user.role.covers(Role.TRADER):
        raise NotAllowed(f"This needs the role {Role.TRADER}.")
    actor = Actor(user.name, user.role, "callback", origin_of(request), user_id=user_id)
    redirect = f"http://callback/?{urlencode({'status': status, 'request_token': request_token})}"
    await broker_session.log_in(links, Act(actor, new_id(), "back from the broker"), redirect)
    return HTMLResponse(_BACK)


@router.post("/broker-session/login", summary="Log in at the broker", responses=acting(502))
async def log_in(asked: LogIn, asking: Operating) -> BrokerSession:
    """Exchanges what the pasted address carries; it is good once and for minutes."""

    async def work(act: Act) -> BrokerSession:
        redirect = asked.redirect.get_secret_value() if asked.redirect else None
        await broker_session.log_in(asking.links, act, redirect)
        return BrokerSession(**asdict(broker_session.state(asking.links.settings)))

    return await asking.once(BrokerSession, asked.reason, work)


@router.post("/broker-session/logout", summary="Log out at the broker", responses=acting(502))
async def log_out(asked: LogOut, asking: Operating) -> BrokerSession:
    """Broker calls and feed wait from now on; nothing stops. On `local` the system logs itself in again."""

    async def work(act: Act) -> BrokerSession:
        await broker_session.log_out(asking.links, act)
        return BrokerSession(**asdict(broker_session.state(asking.links.settings)))

    return await asking.once(BrokerSession, asked.reason, work)
