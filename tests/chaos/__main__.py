"""`make chaos [ORDERS=1000] [SEED=…]`: one run, its verdict and its scoreboard. Exit 0: no breach; 1: a breach, or too little was sent.

Options for work on the run itself: --help lists them.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import time

from core.clock import utc_now
from core.errors import StopTheStart
from tests.chaos import home, plan
from tests.chaos.run import Options, Run

ORDERS = 1000

START_AND_SETTLE_S = 900.0
"""The stack's start, the bounds of settling, the verdict."""


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # that the log is away is what this run is about
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: whatever was started is stopped
    try:
        home.refuse_the_days_end(utc_now(), plan.lasts_s(options.orders, options.pace) + START_AND_SETTLE_S)
        system = home.make()
    except StopTheStart as error:
        sys.stderr.write(f"chaos: {error}\n")
        return 2
    try:
        home.up(system)
        return asyncio.run(Run(system, options).go())
    except StopTheStart as error:
        sys.stderr.write(f"chaos: {error}\n")
        return 2
    finally:
        if not options.keep:
            home.stop(system)


def _options(arguments: list[str]) -> Options:
    flags = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").splitlines()[0])
    flags.add_argument("--orders", type=int, default=ORDERS, help="claimed sends, half of them a broker")
    flags.add_argument(
        "--seed", type=int, default=None, help="decides intents, faults and kills (default: from the clock)"
    )
    flags.add_argument("--rate", type=float, default=None, help="intents a second, over both brokers")
    flags.add_argument("--no-kills", action="store_true")
    flags.add_argument("--no-faults", action="store_true")
    flags.add_argument(
        "--parts", type=lambda text: tuple(text.split(",")), default=(), help="kill and freeze these alone"
    )
    flags.add_argument("--keep", action="store_true", help="leave the stack running afterwards")
    flags.add_argument("--no-docs", action="store_true", help="do not write docs/chaos.md")
    given = flags.parse_args(arguments)
    if given.orders < 2:
        flags.error("--orders: at least 2, half a broker")
    seed = given.seed if given.seed is not None else int(time.time()) % 1_000_000
    return Options(
        orders=given.orders,
        seed=seed,
        rate=given.rate,
        kills=not given.no_kills,
        faults=not given.no_faults,
        parts=given.parts,
        keep=given.keep,
        docs=not given.no_docs,
    )


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the Temporal SDK's runtime may crash the interpreter's own shutdown
