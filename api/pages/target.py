"""What this deployment's orders and prices are, in one word and one sentence. Pure; never softer than the truth."""

from __future__ import annotations

from dataclasses import dataclass

from core.config import Settings


@dataclass(frozen=True, slots=True)
class Banner:
    """`kind` is the CSS class, `word` what stands in the banner, `text` what it means."""

    kind: str
    word: str
    text: str


def banner(settings: Settings) -> Banner:
    if settings.simulated:
        return Banner("simulated", "SIMULATED", "Prices and brokers are the local sandbox: nothing here is real.")
    if settings.real_money:
        return Banner(
            "live",
            "LIVE",
            "Real money: orders of strategies opted in to production reach the exchange. The rest is paper.",
        )
    return Banner("paper", "PAPER", f"Prices come from {settings.kite_target}; no order reaches an exchange.")
