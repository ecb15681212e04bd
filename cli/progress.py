"""What a person sees while something takes its time: one line a step, a spinner on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.status import Status

console = Console(highlight=False)


class Step:
    """A step under way. `say` changes what stands beside its title; the last words stay when it is done."""

    def __init__(self, title: str, status: Status | None) -> None:
        self.title = title
        self.words = ""
        self._status = status

    def say(self, words: str) -> None:
        self.words = words
        if self._status is not None:
            self._status.update(f"{escape(self.title)} [dim]{escape(words)}[/dim]")


@contextmanager
def step(title: str) -> Iterator[Step]:
    """Show a step from begin to end: ✓ with its last words and seconds, ✗ when it raises."""
    began = time.monotonic()
    status = console.status(escape(title)) if console.is_terminal else None
    now = Step(title, status)
    if status is None:
        console.print(f"  … {escape(title)}")
    else:
        status.start()
    mark = "[red]✗[/red]"
    try:
        yield now
        mark = "[green]✓[/green]"
    finally:
        if status is not None:
            status.stop()
        took = time.monotonic() - began
        console.print(f"  {mark} {escape(title)} [dim]{escape(now.words)} · {took:.1f} s[/dim]", soft_wrap=True)
