"""What every body sent to us has in common: no unknown field, no character a database cannot hold, bounded."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Asked(BaseModel):
    """A request's body."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True, str_max_length=2000)

    @model_validator(mode="before")
    @classmethod
    def _storable(cls, given: Any) -> Any:
        if _unstorable(given):
            raise ValueError("text holds a character that cannot be kept (NUL, or half of a surrogate pair)")
        return given


def unstorable_text(text: str) -> bool:
    """Whether PostgreSQL could not keep it as UTF-8 text."""
    return "\0" in text or any("\ud800" <= char <= "\udfff" for char in text)


def _unstorable(given: Any) -> bool:
    if isinstance(given, str):
        return unstorable_text(given)
    if isinstance(given, dict):
        return any(_unstorable(key) or _unstorable(value) for key, value in given.items())
    return isinstance(given, list) and any(_unstorable(each) for each in given)
