"""`alpha-panda sandbox` (or `python -m sandbox`): the sandbox alone, from flags. Prints one line when it cannot start."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from pydantic import SecretStr

from sandbox.config import SandboxConfig
from sandbox.errors import SandboxStartError
from sandbox.server import serve


def run(arguments: list[str]) -> int:
    """Serve until asked to stop; returns the exit code."""
    _log_to_stderr(as_json="--json" in arguments)
    for name in ("httpx", "uvicorn.error"):  # uvicorn prints a WebSocket's address, and with it the access token
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        asyncio.run(serve(parse(arguments)))
    except SandboxStartError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


class _Json(logging.Formatter):
    """One JSON object a line, in the words of our other logs."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat()
        row = {"timestamp": at, "level": record.levelname.lower(), "logger": record.name, "event": record.getMessage()}
        if record.exc_info:
            row["exception"] = self.formatException(record.exc_info)
        return json.dumps(row)


def _log_to_stderr(*, as_json: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if as_json else logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def parse(arguments: list[str]) -> SandboxConfig:
    flags = argparse.ArgumentParser(prog="alpha-panda sandbox", description="A local Kite Connect exchange.")
    flags.add_argument("--host", default="127.0.0.1")
    flags.add_argument("--port", type=int, default=28100, help="0 takes any free port")
    flags.add_argument("--data-dir", type=Path, required=True)
    flags.add_argument("--seed", type=int, default=7)
    flags.add_argument("--api-key", required=True)
    flags.add_argument("--api-secret", default=os.environ.get("KITE_API_SECRET"), help="or KITE_API_SECRET")
    flags.add_argument("--user-id", default="AP0001")
    flags.add_argument("--redirect-url", default="http://127.0.0.1:28101/")
    flags.add_argument("--postback-url")
    flags.add_argument("--strict-limits", action="store_true", help="enforce Kite's rate limits")
    flags.add_argument("--orders-per-second", type=int, default=10, help="what strict limits let through")
    flags.add_argument("--orders-per-minute", type=int, default=400)
    flags.add_argument("--orders-per-day", type=int, default=5_000)
    flags.add_argument("--scenario", type=Path, help="fault rules to start with, YAML or JSON: docs/sandbox-faults.md")
    flags.add_argument("--still", action="store_true", help="prices move only by the admin endpoint")
    flags.add_argument("--extra-instruments", type=int, default=0)
    flags.add_argument("--tick-interval", type=float, default=0.25, help="seconds between ticks of an instrument")
    flags.add_argument("--heartbeat-interval", type=float, default=1.0)
    flags.add_argument("--step-latency", type=float, default=0.002, help="seconds an order spends in each state")
    flags.add_argument("--opening-cash", default="10000000", help="rupees")
    flags.add_argument("--json", action="store_true", help="log lines as JSON")
    values = vars(flags.parse_args(arguments))
    del values["json"]
    if not values["api_secret"]:
        flags.error("--api-secret (or KITE_API_SECRET) is required")
    return SandboxConfig(**{**values, "api_secret": SecretStr(values["api_secret"])})


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
