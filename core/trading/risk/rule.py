"""What a rule is: a code, whom it binds, one check. Pure: it sees the signal, the facts and the limits, no more."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from enum import StrEnum
from typing import ClassVar

from core.trading.risk.facts import Facts, Limits
from core.trading.signals import Signal
from core.trading.types import Intent


class Binds(StrEnum):
    """Which signals a rule may deny."""

    ENTRIES = "entries"
    BOTH = "entries and exits"

    def covers(self, intent: Intent) -> bool:
        return self is Binds.BOTH or intent is Intent.ENTRY


class Rule(ABC):
    """One reason to deny a signal. The docstring's first paragraph is its line in the table of codes."""

    code: ClassVar[str]
    binds: ClassVar[Binds] = Binds.ENTRIES
    limit: ClassVar[str] = ""
    """The limit it reads, as people set it; empty where there is nothing to set."""

    @abstractmethod
    def check(self, signal: Signal, facts: Facts, limits: Limits) -> str | None:
        """What it saw against what it allows, in words; None when the signal passes.

        A rule that lacks what it judges by (an instrument, a price) passes: another rule denies for exactly that.
        """

    @classmethod
    def summary(cls) -> str:
        return " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())
