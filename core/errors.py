"""The one tree of errors. Each class says who acts next; each message says what happened, to what, and what to do.

Nothing here does I/O.
"""

from __future__ import annotations


class AlphaPandaError(Exception):
    """Root of every error this project raises on purpose."""


class StopTheStart(AlphaPandaError):
    """Configuration, credentials, files or topics are missing or wrong: a person must mend it before anything starts."""


class ConfigError(StopTheStart):
    """A setting is missing or invalid. The message lists every bad field by name with its fix."""


class SessionMissing(StopTheStart):
    """No valid Zerodha session. The message names `alpha-panda login`."""


class Transient(AlphaPandaError):
    """A part we need is away (database, log, Temporal, Redis, broker). The caller waits and tries the same again.

    `part` names it for health; empty: the message's first word does.
    """

    def __init__(self, message: str = "", *, part: str = "") -> None:
        super().__init__(message)
        self.part = part


class Poison(AlphaPandaError):
    """This message can never be handled as it is: it goes to the dead-letter queue with its reason.

    `stage` is where it failed: decode, validate or handle.
    """

    def __init__(self, message: str, *, stage: str = "handle") -> None:
        super().__init__(message)
        self.stage = stage


class BrokerError(AlphaPandaError):
    """A broker call did not succeed. `kind` in the subclasses says whether the order can exist at the broker."""


class NotPlaced(BrokerError):
    """For certain nothing reached the exchange. `retryable` tells a passing refusal from a final one."""

    def __init__(self, message: str, *, code: str, retryable: bool) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable


class OutcomeUnknown(BrokerError):
    """The request may have reached the broker. Only the book can tell: look the order up by its tag, never resend."""


class SessionExpired(NotPlaced):
    """The broker refused our access token. Waits for `alpha-panda login`; never a rejection of the order."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="SESSION_EXPIRED", retryable=True)


class CommandConflict(AlphaPandaError):
    """A request id was used before for another command: a person or program must take a new one."""


class CommandRefused(AlphaPandaError):
    """A command cannot be carried out as it is. Nothing was journalled or sent; each reason names the field and the fix."""


class NotLoggedIn(AlphaPandaError):
    """Nobody we know asks. Log in, or give an API key; the message never says what was wrong with what was given."""


class NotAllowed(AlphaPandaError):
    """Somebody we know asks for more than their role or key allows. The message names what is needed."""


class LockedOut(AlphaPandaError):
    """Too many failed logins. Nothing is checked for `retry_after_s` seconds more."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
