"""Writes docs/risk-codes.md from the rules and limits themselves, so that the page cannot drift from the code.

`python -m core.trading.risk.document` writes it; a test fails when it differs.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from core.trading.risk.freeze import BSE_INDEX_UNITS, CASH_UNITS, DERIVATIVE_LOTS, NSE_INDEX_UNITS
from core.trading.risk.limits import MODELS
from core.trading.risk.rulebook import RULES

PAGE = Path(__file__).resolve().parents[3] / "docs" / "risk-codes.md"


def page() -> str:
    """The whole page, Markdown."""
    parts = [
        "# Risk: codes and limits",
        "Written by `python -m core.trading.risk.document` from the code; do not edit by hand.",
        "Every signal meets every rule that binds it, and a denial lists all rules that failed, not just the first. An "
        "exit obeys only the rules that bind exits; out of session it passes and waits.",
        "## Codes",
        _codes(),
        "## Limits",
        "Rows of `config.risk_limits`: scope `strategy` and a strategy's id, or scope `account` and a broker's name. "
        "What a row leaves out, or a missing row, takes the default. A row with a bad or unknown field stops the "
        "start; while running it is refused with an alert and the last good limits go on. Changes count within 5 "
        "seconds.",
    ]
    for scope, model in MODELS.items():
        parts += [f"### {scope}", _limits(model)]
    parts += ["## Freeze quantities", _freeze()]
    return "\n\n".join(parts) + "\n"


def _codes() -> str:
    rows = ["| code | denies when | binds | limit |", "|---|---|---|---|"]
    rows += [f"| `{rule.code}` | {rule.summary()} | {rule.binds} | {_quoted(rule.limit)} |" for rule in RULES]
    return "\n".join(rows)


def _quoted(names: str) -> str:
    return ", ".join(f"`{name}`" for name in names.split(", ") if name)


def _limits(model: type[BaseModel]) -> str:
    rows = ["| field | unit and meaning | default |", "|---|---|---|"]
    rows += [f"| `{name}` | {field.description} | {field.default} |" for name, field in model.model_fields.items()]
    return "\n".join(rows)


def _freeze() -> str:
    rows = ["| instrument | most units in one order | source |", "|---|---|---|"]
    circular = "NSE circular of 30 January 2026, in force from 1 February 2026"
    rows += [f"| {name} derivatives (NFO) | {units} | {circular} |" for name, units in NSE_INDEX_UNITS.items()]
    rows += [f"| {name} derivatives (BFO) | {units} | assumed |" for name, units in BSE_INDEX_UNITS.items()]
    rows.append(f"| any other derivative | {DERIVATIVE_LOTS} lots | assumed |")
    rows.append(f"| shares (NSE, BSE) | {CASH_UNITS} | assumed |")
    return "\n".join(rows)


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
