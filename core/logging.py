"""Structured logs: one JSON object a line, UTC times, the order's ids bound by context. Never a secret."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_SECRET_KEY = re.compile(
    r"(password|secret|access_token|enctoken|public_token|authorization|checksum|request_token)", re.I
)
_SECRET_TEXT = re.compile(
    r"((?:access_token|request_token|api_secret|password|checksum)=)[^&\s\"']+|(token\s+\w+:)\S+", re.I
)


def _redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if _SECRET_KEY.search(key):
            event[key] = "***"
        elif isinstance(value, str):
            event[key] = _SECRET_TEXT.sub(lambda m: (m.group(1) or m.group(2)) + "***", value)
    return event


ORDER_KEYS = ("broker", "order_id", "correlation_id")
"""What the lines of an order's path carry; a task that handles one record after the other unbinds them in between."""


class _RateLimited(logging.Filter):
    """aiokafka logs hundreds of warnings while a broker is away: one line per distinct message a minute is enough."""

    def __init__(self, seconds: float = 60.0) -> None:
        super().__init__()
        self._seconds = seconds
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.CRITICAL:
            return True
        last = self._last.get(record.msg if isinstance(record.msg, str) else str(record.msg))
        if last is not None and record.created - last < self._seconds:
            return False
        if len(self._last) > 1000:
            self._last.clear()
        self._last[str(record.msg)] = record.created
        return True


def configure(service: str, level: str = "INFO") -> None:
    """Send structlog and the standard library's loggers to stdout as JSON lines carrying `service`."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _redact,
                structlog.processors.JSONRenderer(default=str),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("aiokafka").addFilter(_RateLimited())
    for name in (
        "aiokafka.conn",
        "aiokafka.producer.sender",
        "aiokafka.consumer.fetcher",
        "aiokafka.consumer.group_coordinator",
        "aiokafka.cluster",
        "aiokafka",
    ):
        logger = logging.getLogger(name)
        logger.addFilter(_RateLimited())
        logger.setLevel(max(logging.WARNING, logging.getLevelName(level)))
    for name in ("httpx", "uvicorn.access", "temporalio.worker", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.contextvars.bind_contextvars(service=service)


def get(name: str) -> structlog.stdlib.BoundLogger:
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
