"""The scoreboard of a run, as printed and as docs/chaos.md keeps it. Figures that were seen, nothing else."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from core.clock import utc_now
from core.trading.types import Broker
from docker.prerequisites import ROOT
from tests.chaos.blows import Outcome
from tests.chaos.home import FACTOR
from tests.chaos.plan import universe
from tests.chaos.verdict import Verdict

if TYPE_CHECKING:
    from tests.chaos.run import Run

DOCUMENT = ROOT / "docs" / "chaos.md"

HEAD = """\
# The chaos run

`make chaos` starts a stack of its own, trades on both brokers, and meanwhile kills (`kill -9`) and freezes (`SIGSTOP`) every process
of ours and every part of the stack, while the sandbox fails the way Zerodha fails. Then a referee holds each intent, written down
before the run, against the brokers' own books: the sandbox's ledger, and the paper exchange's book recomputed from the recorded
ticks. Any breach is told with the order's whole timeline and exit code 1.

Per intent it wants exactly one accepted order, field by field the one that was asked for, or a proven reason for none: the books that
prove absence are counted again, a refusal must stand in the sandbox's own log. No exit is ever accepted for more than was held less what
other exits worked for, and none stays unsent while something is held. Fills, prices, positions, PnL and charges agree to the unit and
the paisa, in the journal, in Redis and on the log; each order's events lie there gapless, each id once. The last round of reconciliation
has judged every line. Recovery is counted from the kill, or from SIGCONT, until the part is ready, every consumer's lag is as before
and every order that was not in mid-send has moved on. Durations of the order path are divided by {factor} (absence is proven in seconds).
Strangers trade in the account too: where their orders closed what an exit of ours was for, a person of the run cancels that exit, and
the referee recomputes the account's net from the sandbox's book to see that nothing was left to close.

The last run's scoreboard, written by the run itself:

"""


def board(run: Run, verdict: Verdict, traded_s: float) -> str:
    """Markdown."""
    faults = _faults(run.world.settings.var / "data" / "sandbox" / "sandbox.db")
    outcomes = run.hand.outcomes
    claimed = sum(verdict.claimed.values())
    lines = [
        "| | |",
        "|---|---|",
        f"| orders (claimed sends) | {claimed}: {_each(verdict.claimed)} |",
        f"| intents published | {sum(verdict.published.values())}: {_each(verdict.published)} |",
        f"| accepted by a broker, filled whole | {_each(verdict.accepted)}; filled {_each(verdict.filled)} |",
        f"| **duplicates** | **{verdict.duplicates}** |",
        f"| **lost** | **{verdict.lost}** |",
        f"| breaches | {len(verdict.breaches)} |",
        f"| intents that ended unsent | {_counts(verdict.unsent) or 'none'} |",
        f"| … beyond the plan | {_each(verdict.beyond_plan)} of {_each(verdict.published)} |",
        f"| UNKNOWN, seconds to evidence | {_unknown(verdict.unknown_s)} |",
        f"| faults by kind | {_counts(faults) or 'none'} |",
        f"| kills + freezes by part | {_by_part(outcomes) or 'none'}; {len(outcomes)} in all |",
        f"| recovery | {_recovery([one.recovery_s for one in outcomes])} |",
        *[f"| … {name} | {_recovery(rows)} |" for name, rows in _recoveries(outcomes).items()],
        f"| rate | {claimed / max(traded_s, 1):.1f} claimed sends a second over {traded_s:.0f} s, {len(universe())} instruments |",
        f"| seed and command | `{run.options.command}` (seed {run.options.seed}) |",
        f"| machine | {machine()} |",
        f"| when | {utc_now():%Y-%m-%d %H:%M} UTC |",
    ]
    return "\n".join([*lines, "", *_table(outcomes)])


def _table(outcomes: Sequence[Outcome]) -> list[str]:
    """Recovery part by part, slowest first."""
    if not outcomes:
        return []
    by_part: dict[str, list[float]] = defaultdict(list)
    for one in outcomes:
        by_part[one.blow.part].append(float("inf") if one.recovery_s is None else one.recovery_s)
    rows = sorted(by_part.items(), key=lambda row: -max(row[1]))
    return [
        "| part | blows | recovery p50, s | longest, s |",
        "|---|---|---|---|",
        *[f"| {part} | {len(times)} | {percentile(times, 0.5):.1f} | {max(times):.1f} |" for part, times in rows],
    ]


def write(text: str) -> None:
    DOCUMENT.write_text(HEAD.format(factor=FACTOR) + text + "\n")


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]


def machine() -> str:
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    return (
        f"{os.cpu_count()} cores {model}, {psutil.virtual_memory().total / 2**30:.0f} GiB, {platform.system()} "
        f"{platform.release().split('-')[0]}, Python {platform.python_version()}; load average at the end {load}"
    )


def _faults(database: Path) -> Counter[str]:
    """What the sandbox really did, from its own log."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        return Counter(dict(connection.execute("SELECT kind, count(*) FROM fault_log GROUP BY kind")))
    finally:
        connection.close()


def _each(counts: Counter[Broker]) -> str:
    return ", ".join(f"{broker} {counts[broker]}" for broker in Broker)


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _unknown(seconds: list[float]) -> str:
    if not seconds:
        return "none"
    median, late = percentile(seconds, 0.5), percentile(seconds, 0.99)
    return f"{len(seconds)} times: median {median:.1f}, p99 {late:.1f}, longest {max(seconds):.1f}"


def _by_part(outcomes: Sequence[Outcome]) -> str:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for one in outcomes:
        found[one.blow.part][one.blow.action.split()[0]] += 1
    return ", ".join(f"{part} {counts['kill']}+{counts['freeze']}" for part, counts in sorted(found.items()))


def _recovery(seconds: Sequence[float | None]) -> str:
    known = [one for one in seconds if one is not None]
    if not seconds:
        return "none"
    never = len(seconds) - len(known)
    told = f"{never} never within the bound; " if never else ""
    if not known:
        return told
    return (
        f"{told}{len(known)} times: p50 {percentile(known, 0.5):.1f} s, p99 {percentile(known, 0.99):.1f} s, "
        f"longest {max(known):.1f} s"
    )


def _recoveries(outcomes: Sequence[Outcome]) -> dict[str, list[float | None]]:
    """By what was done, and what of it took how long."""
    found: dict[str, list[float | None]] = defaultdict(list)
    for one in outcomes:
        found[f"after {one.blow.action}"].append(one.recovery_s)
    for one in outcomes:
        found["until ready"].append(one.ready_s)
        found["until lag is as before"].append(one.lag_s)
        found["until orders moved on"].append(one.moved_s)
    return found
