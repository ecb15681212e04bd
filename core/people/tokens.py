"""Tokens of sessions and programs: signed access tokens for minutes, random refresh tokens and API keys known by their hash alone.

Never accepts another algorithm than ours, and never tells why a token is not good.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import jwt
from pydantic import SecretStr

from core.errors import NotLoggedIn

ALGORITHM = "HS256"
ISSUER = "alpha-panda"
AUDIENCE = "alpha-panda-api"

ACCESS_LIFE = timedelta(minutes=15)
REFRESH_LIFE = timedelta(hours=12)
"""Unused that long, a session is over: the next morning begins with a login."""
SESSION_LIFE = timedelta(days=7)
"""Over for good, however often it was refreshed."""

REFRESH_GRACE = timedelta(seconds=10)
"""So long a refresh token that was just used gives the same successor once more: to a second tab, or where the answer was lost."""

STATE_LIFE = timedelta(minutes=10)
"""How long a login at the broker may take."""

_STATE_OVER = "This is not a login that was begun here within ten minutes: open the link of the control room again."

_REQUIRED = ["iss", "aud", "sub", "sid", "iat", "exp", "jti"]
_KEY = re.compile(r"ap_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class Access:
    """What a good access token says."""

    user_id: UUID
    session_id: UUID
    expires_at: datetime


def sign(secret: SecretStr, user_id: UUID, session_id: UUID, now: datetime) -> str:
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": str(user_id),
        "sid": str(session_id),
        "iat": now,
        "exp": now + ACCESS_LIFE,
        "jti": secrets.token_hex(8),
    }
    return jwt.encode(claims, secret.get_secret_value(), algorithm=ALGORITHM)


def read(secret: SecretStr, token: str) -> Access:
    """A token of ours that has not expired.

    Raises:
        NotLoggedIn: anything else.
    """
    try:
        claims = jwt.decode(
            token,
            secret.get_secret_value(),
            algorithms=[ALGORITHM],
            issuer=ISSUER,
            audience=AUDIENCE,
            options={"require": _REQUIRED},
        )
        expires = datetime.fromtimestamp(claims["exp"], UTC)
        return Access(UUID(claims["sub"]), UUID(claims["sid"]), expires)
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise NotLoggedIn("The session is over or the token is not ours: log in again.") from error


def new_refresh() -> str:
    """256 random bits."""
    return secrets.token_urlsafe(32)


def successor(secret: SecretStr, refresh_token: str) -> str:
    """The refresh token that follows this one: 256 bits nobody finds without our secret, the same whenever this one is asked for."""
    digest = hmac.new(secret.get_secret_value().encode(), f"refresh:{refresh_token}".encode(), "sha256").digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def hash_of(token: str) -> str:
    """What is stored. A plain hash will do: there is nothing to guess in 256 random bits."""
    return hashlib.sha256(token.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class NewKey:
    """An API key as its owner sees it, once."""

    key_id: str
    secret_hash: str
    text: str


def new_key() -> NewKey:
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    return NewKey(key_id, hash_of(secret), f"ap_{key_id}_{secret}")


def split_key(text: str) -> tuple[str, str] | None:
    """(key id, hash of its secret); None where the text is no key of ours."""
    found = _KEY.fullmatch(text)
    return None if found is None else (found[1], hash_of(found[2]))


def same(one: str, other: str) -> bool:
    """Compared in constant time."""
    return hmac.compare_digest(one.encode(), other.encode())


def csrf(secret: SecretStr, session_id: UUID) -> str:
    """What a page of ours sends back in X-CSRF-Token with every change; bound to the session."""
    return hmac.new(secret.get_secret_value().encode(), f"csrf:{session_id}".encode(), "sha256").hexdigest()


def login_state(secret: SecretStr, user_id: UUID, now: datetime) -> str:
    """What a login at the broker carries there and back, so that the redirect is known to be the one this user began."""
    return _stated(secret, user_id, int((now + STATE_LIFE).timestamp()))


def read_login_state(secret: SecretStr, state: str, now: datetime) -> UUID:
    """Who began it.

    Raises:
        NotLoggedIn: it is none of ours, or too old.
    """
    name, _, rest = state.partition(".")
    until = rest.partition(".")[0]
    try:
        user_id, expires = UUID(name), int(until)
    except ValueError:
        raise NotLoggedIn(_STATE_OVER) from None
    if not same(_stated(secret, user_id, expires), state) or expires < now.timestamp():
        raise NotLoggedIn(_STATE_OVER)
    return user_id


def _stated(secret: SecretStr, user_id: UUID, expires: int) -> str:
    said = f"{user_id}.{expires}"
    mark = hmac.new(secret.get_secret_value().encode(), f"broker-login:{said}".encode(), "sha256").hexdigest()
    return f"{said}.{mark}"
