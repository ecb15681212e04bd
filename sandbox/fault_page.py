"""Writes the table of faults into docs/sandbox-faults.md from the catalogue: `python -m sandbox.fault_page`. Nothing else."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from sandbox.fault_kinds import CATALOGUE, Family

PAGE = Path(__file__).resolve().parents[1] / "docs" / "sandbox-faults.md"
BEGIN, END = "<!-- faults: written by python -m sandbox.fault_page -->", "<!-- end of faults -->"
_TITLES = {
    Family.ANSWER: "Answers: one HTTP request",
    Family.VIEW: "What is shown: one reading of a book, a history, trades or positions",
    Family.ORDER: "Orders: one order of ours",
    Family.ACCOUNT: "The account: once, `after_s` after the rule was given",
    Family.UPDATE: "Updates: one order update on one channel",
    Family.SOCKET: "Sockets of the ticker",
}


def table() -> str:
    """Every kind by family: what it does, its parameters with their defaults, an example, who says Zerodha does it."""
    lines: list[str] = []
    for family, title in _TITLES.items():
        lines += [
            f"### {title}",
            "",
            "| kind | what happens | parameters | example rule | source |",
            "|---|---|---|---|---|",
        ]
        for kind, spec in CATALOGUE.items():
            if spec.family is not family:
                continue
            route = [f"`route` {spec.route}"] if spec.route and family is not Family.SOCKET else []
            shown = [f"`{name}` {_show(value)}" for name, value in spec.defaults.items()]
            parameters = ", ".join(route + shown) or "none"
            example = json.dumps(spec.example(kind))
            lines.append(f"| `{kind}` | {spec.what} | {parameters} | `{example}` | {spec.source} |")
        lines.append("")
    return "\n".join(lines)


def write() -> None:
    page = PAGE.read_text()
    block = f"{BEGIN}\n{table()}{END}"
    PAGE.write_text(re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: block, page, flags=re.S))


def _show(value: object) -> str:
    return "(none)" if value is None else json.dumps(value)


if __name__ == "__main__":
    write()
    sys.stdout.write(f"{PAGE} written\n")
