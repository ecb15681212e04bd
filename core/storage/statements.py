"""Statements of the hot path: written with SQLAlchemy, compiled once a schema, run on the driver's own connection.

Building and wrapping a statement anew cost four times what running it does. Retries nothing, begins and ends no transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Table, bindparam
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import ClauseElement

from core.errors import Transient
from core.routing import JOURNAL

PART = "postgres"

_DIALECT = PGDialect_asyncpg()  # type: ignore[no-untyped-call]


class Statement:
    """SQL text with its parameters by name. JSON columns take JSON text here, and give Python values."""

    def __init__(self, clause: ClauseElement) -> None:
        self._clause = clause
        self._texts: dict[str, str] = {}
        compiled = clause.compile(dialect=_DIALECT)
        self.text = str(compiled)
        """As it stands, for tables whose schema is fixed."""
        self._names: Sequence[str] = compiled.positiontup or ()  # type: ignore[attr-defined]
        binds = compiled.binds  # type: ignore[attr-defined]
        self._defaults = {name: value for name, value in compiled.params.items() if not binds[name].required}

    def arguments(self, values: dict[str, Any]) -> list[Any]:
        """In the text's order. Raises KeyError naming a parameter that was not given."""
        return [values[name] if name in values else self._defaults[name] for name in self._names]

    def text_in(self, schema: str) -> str:
        """The text with `schema` in the place of the journal's placeholder."""
        text = self._texts.get(schema)
        if text is None:
            translated: dict[str, Any] = {"schema_translate_map": {JOURNAL: schema}, "render_schema_translate": True}
            text = self._texts[schema] = str(self._clause.compile(dialect=_DIALECT, **translated))
        return text

    async def rows(self, connection: AsyncConnection, **values: Any) -> list[Any]:
        """Run inside the transaction that `connection` has begun; mappings by column name.

        Raises:
            RuntimeError: no transaction has begun: the statement would commit by itself.
            Transient: the connection is gone.
        """
        if not _driver(connection).is_in_transaction():
            raise RuntimeError("this statement belongs into a transaction: run one through SQLAlchemy before it")
        return await self._fetch(connection, values)

    async def read(self, connection: AsyncConnection, **values: Any) -> list[Any]:
        """Run a single read, or a single statement that may commit by itself. Raises as `rows`."""
        return await self._fetch(connection, values)

    async def _fetch(self, connection: AsyncConnection, values: dict[str, Any]) -> list[Any]:
        driver = _driver(connection)
        schema = _schema(connection)
        text = self.text if schema is None else self.text_in(schema)
        try:
            rows: list[Any] = await driver.fetch(text, *self.arguments(values))
        except Exception as error:
            if driver.is_closed():
                await connection.invalidate()  # SQLAlchemy did not see it break
                raise Transient(f"PostgreSQL closed the connection: {type(error).__name__}", part=PART) from error
            raise
        return rows


def equal(table: Table, *names: str) -> list[ColumnElement[bool]]:
    """Conditions: each of these columns equals the parameter of its name."""
    return [table.c[name] == bindparam(name, type_=table.c[name].type) for name in names]


def given(table: Table, names: Iterable[str], prefix: str = "") -> dict[str, BindParameter[Any]]:
    """Values: each of these columns from the parameter of its name, with `prefix` before it."""
    return {name: bindparam(prefix + name, type_=table.c[name].type) for name in names}


def _driver(connection: AsyncConnection) -> Any:
    """The asyncpg connection beneath."""
    sync = connection.sync_connection
    assert sync is not None
    return sync.connection.driver_connection


def _schema(connection: AsyncConnection) -> str | None:
    assert connection.sync_connection is not None
    translated = connection.sync_connection.get_execution_options().get("schema_translate_map") or {}
    return translated.get(JOURNAL)
