"""What every body sent to us has in common: no unknown field, nothing a database cannot hold, bounded in length and depth."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

DEEPEST = 20
"""Levels of lists and objects inside one another. No body of ours has five."""


class Asked(BaseModel):
    """A request's body."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True, str_max_length=2000)

    @model_validator(mode="before")
    @classmethod
    def _storable(cls, given: Any) -> Any:
        wrong = _unstorable(given)
        if wrong is not None:
            raise ValueError(wrong)
        return given


def unstorable_text(text: str) -> bool:
    """Whether PostgreSQL could not keep it as UTF-8 text."""
    return "\0" in text or any("\ud800" <= char <= "\udfff" for char in text)


def _unstorable(given: Any) -> str | None:
    """Why it cannot be kept, in words. A level at a time, never by calling itself: who sends it chooses how deep it goes."""
    level = [given]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, str) and unstorable_text(each):
                return "text holds a character that cannot be kept (NUL, or half of a surrogate pair)"
            if isinstance(each, float) and not math.isfinite(each):
                return "a number is not finite: JSON knows no NaN and no Infinity"
            if isinstance(each, dict):
                inner += [*each, *each.values()]
            elif isinstance(each, list):
                inner += each
        if not inner:
            return None
        level = inner
    return f"lists and objects lie more than {DEEPEST} levels inside one another"
