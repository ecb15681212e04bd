"""How the command line shows money, times and JSON: rupees with Indian grouping, IST, one JSON document on standard output."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.progress import console

if TYPE_CHECKING:
    from pydantic import BaseModel

    from api.reads import Reads

T = TypeVar("T")

PIPE_WIDTH = 240

SIMULATED = "[yellow]SIMULATED[/]: prices come from the local sandbox; nothing here is real money."


def rupees(amount: Decimal | None, places: int = 2) -> str:
    """`₹12,34,567.80`; a dash where there is no figure."""
    if amount is None:
        return "–"
    whole, _, fraction = f"{abs(amount).quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN):f}".partition(".")
    head, tail = whole[:-3], whole[-3:]
    groups = [head[max(0, end - 2) : end] for end in range(len(head), 0, -2)][::-1]
    sign = "-" if amount < 0 and (int(whole) or int(fraction or 0)) else ""
    return f"{sign}₹{','.join([*groups, tail])}{'.' + fraction if fraction else ''}"


def gain(amount: Decimal | None) -> str:
    """Rupees in green or red."""
    colour = "white" if not amount else "green" if amount > 0 else "red"
    return f"[{colour}]{rupees(amount)}[/]"


def ist(moment: datetime | None) -> str:
    """`09:30:01.250`, in IST; a dash where there is none."""
    from core.clock import to_ist

    if moment is None:
        return "–"
    local = to_ist(moment)
    return f"{local:%H:%M:%S}.{local.microsecond // 1000:03}"


def ist_short(moment: datetime, now: datetime) -> str:
    """`09:30:01` today, `7 Oct 09:30` before, in IST."""
    from core.clock import to_ist

    local = to_ist(moment)
    return f"{local:%H:%M:%S}" if local.date() == to_ist(now).date() else f"{local.day} {local:%b %H:%M}"


def table(*columns: tuple[str, str]) -> Table:
    """An empty table of (title, `left`, `right` or `fold`); only `fold` columns may break over lines."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for title, side in columns:
        shown.add_column(title, justify="right" if side == "right" else "left", no_wrap=side != "fold", overflow="fold")
    return shown


def put(shown: Table | str) -> None:
    """Print a table: as wide as it is where no person's terminal bounds it."""
    if console.is_terminal:
        console.print(shown)
    else:
        Console(highlight=False, width=PIPE_WIDTH).print(shown)


def text(value: object) -> str:
    """A value as table text: nothing in it is markup."""
    return escape(str(value))


def print_json(answer: BaseModel | Sequence[BaseModel] | dict[str, Any]) -> None:
    """One JSON document, exactly as the API would give it."""
    from pydantic import BaseModel

    if isinstance(answer, BaseModel):
        body: Any = answer.model_dump(mode="json")
    elif isinstance(answer, dict):
        body = answer
    else:
        body = [row.model_dump(mode="json") for row in answer]
    print_rows(body)


def print_rows(body: object) -> None:
    """One JSON document of plain values."""
    sys.stdout.write(json.dumps(body, indent=2, ensure_ascii=False) + "\n")


def _reads() -> Reads:
    from api.reads import Reads
    from core.config import settings

    return Reads(settings())


def reading(work: Callable[[Any], Awaitable[T]]) -> T:
    """Run `work` with open reads (a control room's client in remote mode) and close them; logs go to standard error.

    Raises:
        AlphaPandaError: as `work` does.
    """
    import structlog

    from cli import remote

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

    async def run() -> T:
        reads = remote.client() if remote.is_on() else _reads()
        try:
            return await work(reads)
        finally:
            await reads.close()

    return asyncio.run(run())
