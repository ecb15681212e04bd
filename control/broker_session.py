"""The broker's session: how it stands, where a person logs in, what they bring back, and its end.

Never shows, keeps or audits a token; only the local sandbox is logged in to without a person.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from control.acts import Act
from control.connections import Connections
from core.brokers import kite_http, kite_login
from core.brokers.zerodha_session import Session, load_session, read_session, remove_session
from core.clock import utc_now
from core.config import Settings
from core.errors import CommandRefused


@dataclass(frozen=True, slots=True)
class SessionState:
    """`valid` is what our file says; whether the broker still takes it, the broker alone knows (`works`, where it was asked)."""

    target: str
    user_id: str | None
    login_time: datetime | None
    expires_at: datetime | None
    valid: bool
    login_url: str
    simulated: bool


def state(settings: Settings) -> SessionState:
    """As the session file says."""
    found = read_session(settings.session_file)
    return SessionState(
        target=settings.kite_target.value,
        user_id=found.user_id if found else None,
        login_time=found.login_time if found else None,
        expires_at=found.expires_at if found else None,
        valid=found is not None and found.is_for(settings) and found.valid_at(utc_now()),
        login_url=kite_http.login_url(settings),
        simulated=settings.simulated,
    )


async def log_in(links: Connections, act: Act, redirect: str | None) -> Session:
    """With the address the browser ended on; without it, on the local sandbox, by ourselves.

    Raises:
        CommandRefused: there is no address and this is not local. BrokerError: the login is none. Transient: the broker is away.
    """
    settings = links.settings
    if redirect:
        session = await kite_login.login_with(settings, redirect)
    elif settings.simulated:
        session = await kite_login.ensure_local_session(settings)
    else:
        raise CommandRefused("redirect: paste the whole address the browser ended on after logging in")
    after = {"user_id": session.user_id, "target": settings.kite_target.value}
    await act.note(links.config, "broker-session.login", settings.kite_target.value, after=after)
    return session


async def log_out(links: Connections, act: Act) -> None:
    """End the session at the broker and forget it. Broker calls and feed wait from then on; nothing stops.

    Raises:
        Transient: the broker is away; the session goes on.
    """
    settings = links.settings
    session = load_session(settings)
    if session is not None:
        await kite_http.end_session(settings, session)
    remove_session(settings)
    before = {"user_id": session.user_id} if session is not None else None
    await act.note(links.config, "broker-session.logout", settings.kite_target.value, before=before)
