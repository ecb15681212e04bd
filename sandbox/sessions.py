"""Login state: request tokens, the one access token, when it dies. Durable; prints and logs no token.

One active login: a new session ends the old one (kite.trade/docs/connect/v3/user). A token dies at 06:00 IST.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from sandbox import errors
from sandbox.config import SandboxConfig
from sandbox.store import Store
from sandbox.wire import ist, next_token_death, now

REQUEST_TOKEN_LIVES = timedelta(minutes=5)
_ALPHABET = string.ascii_letters + string.digits
EXCHANGES = ["NSE", "NFO", "BFO", "CDS", "BSE", "MCX", "BCD", "MF"]
PRODUCTS = ["CNC", "NRML", "MIS", "BO", "CO"]
ORDER_TYPES = ["MARKET", "LIMIT", "SL", "SL-M"]


class Sessions:
    """Whoever holds the current access token is the user."""

    def __init__(self, config: SandboxConfig, store: Store) -> None:
        self._config = config
        self._store = store
        self._session: dict[str, Any] | None = store.get("session")
        self._request_tokens: dict[str, str] = store.get("request_tokens") or {}
        self._on_end: Callable[[str], None] = lambda token: None

    def on_end(self, callback: Callable[[str], None]) -> None:
        """`callback(access_token)` when a token dies: its sockets are to be closed."""
        self._on_end = callback

    def mint_request_token(self) -> str:
        """What the login page hands out: single use, good for five minutes."""
        at = now()
        self._request_tokens = {
            token: until for token, until in self._request_tokens.items() if datetime.fromisoformat(until) > at
        }
        token = _random(32)
        self._request_tokens[token] = (at + REQUEST_TOKEN_LIVES).isoformat()
        self._store.put("request_tokens", self._request_tokens)
        return token

    def create(self, api_key: str, request_token: str, checksum: str) -> dict[str, Any]:
        """Exchange a request token for a session.

        Raises:
            KiteError: unknown key, dead or used request token, wrong checksum.
        """
        if not hmac.compare_digest(api_key.encode(), self._config.api_key.encode()):
            raise errors.bad_token()
        until = self._request_tokens.get(request_token)
        if until is None or datetime.fromisoformat(until) <= now():
            raise errors.dead_request_token()
        secret = self._config.api_secret.get_secret_value()
        expected = hashlib.sha256(f"{api_key}{request_token}{secret}".encode()).hexdigest()
        if not hmac.compare_digest(checksum.encode(), expected.encode()):
            raise errors.bad_checksum()
        del self._request_tokens[request_token]
        at = now()
        old = self._session
        self._session = {
            "access_token": _random(32),
            "public_token": _random(32),
            "enctoken": _random(88),
            "login_time": at.isoformat(),
            "dies_at": next_token_death(at).isoformat(),
        }
        with self._store.transaction():
            self._store.put("request_tokens", self._request_tokens)
            self._store.put("session", self._session)
        if old is not None:
            self._on_end(old["access_token"])
        return self._answer(self._session)

    def check(self, api_key: str, access_token: str) -> bool:
        """True for the app's key with the live access token."""
        session = self._live()
        return (
            session is not None
            and hmac.compare_digest(api_key.encode(), self._config.api_key.encode())
            and hmac.compare_digest(access_token.encode(), str(session["access_token"]).encode())
        )

    def invalidate(self, api_key: str, access_token: str) -> None:
        """Log out.

        Raises:
            KiteError: the token is not the live one.
        """
        if not self.check(api_key, access_token):
            raise errors.bad_token()
        self.end()

    def end(self) -> bool:
        """Kill the live token, if there is one."""
        session, self._session = self._session, None
        if session is None:
            return False
        self._store.put("session", None)
        self._on_end(session["access_token"])
        return True

    def expire_if_due(self) -> None:
        """Called every second: 06:00 IST has come."""
        if self._session is not None:
            self._live()

    def info(self) -> dict[str, Any]:
        session = self._live()
        if session is None:
            return {"active": False}
        return {"active": True, "login_time": session["login_time"], "dies_at": session["dies_at"]}

    def profile(self) -> dict[str, Any]:
        return {**self._user(), "meta": {"demat_consent": "physical"}}

    def _live(self) -> dict[str, Any] | None:
        if self._session is not None and datetime.fromisoformat(self._session["dies_at"]) <= now():
            self.end()
        return self._session

    def _user(self) -> dict[str, Any]:
        return {
            "user_id": self._config.user_id,
            "user_type": "individual",
            "email": "trader@example.com",
            "user_name": "Sandbox Trader",
            "user_shortname": "Sandbox",
            "broker": "ZERODHA",
            "exchanges": EXCHANGES,
            "products": PRODUCTS,
            "order_types": ORDER_TYPES,
            "avatar_url": None,
        }

    def _answer(self, session: dict[str, Any]) -> dict[str, Any]:
        return {
            **self._user(),
            "avatar_url": "",
            "api_key": self._config.api_key,
            "access_token": session["access_token"],
            "public_token": session["public_token"],
            "enctoken": session["enctoken"],
            "refresh_token": "",
            "silo": "",
            "login_time": ist(datetime.fromisoformat(session["login_time"])),
            "meta": {"demat_consent": "physical"},
        }


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
