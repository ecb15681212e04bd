"""The sandbox's memory on disk: one SQLite file in WAL mode with full fsync. Knows rows, not what they mean.

What is committed survives kill -9 and power loss. The ledger is append-only: no statement here updates or deletes it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from sandbox.errors import SandboxStartError
from sandbox.prices import Bar

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, doc TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS ledger (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, order_id TEXT NOT NULL UNIQUE, day TEXT NOT NULL, tag TEXT, doc TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS ledger_tag ON ledger (tag);
CREATE TABLE IF NOT EXISTS orders (order_id TEXT PRIMARY KEY, day TEXT NOT NULL, seq INTEGER NOT NULL, doc TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS orders_day ON orders (day, seq);
CREATE TABLE IF NOT EXISTS history (order_id TEXT NOT NULL, n INTEGER NOT NULL, doc TEXT NOT NULL, PRIMARY KEY (order_id, n));
CREATE TABLE IF NOT EXISTS trades (
    trade_id TEXT PRIMARY KEY, day TEXT NOT NULL, order_id TEXT NOT NULL, doc TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS trades_day ON trades (day);
CREATE INDEX IF NOT EXISTS trades_order ON trades (order_id);
CREATE TABLE IF NOT EXISTS prices (token INTEGER PRIMARY KEY, doc TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS bars (
    token INTEGER NOT NULL, minute INTEGER NOT NULL, o INTEGER, h INTEGER, l INTEGER, c INTEGER, v INTEGER, oi INTEGER,
    PRIMARY KEY (token, minute)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS fault_rules (
    id TEXT PRIMARY KEY, given_at REAL NOT NULL, seen INTEGER NOT NULL, chosen INTEGER NOT NULL, fired INTEGER NOT NULL,
    doc TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS fault_log (seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, doc TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS fault_plans (order_id TEXT PRIMARY KEY, doc TEXT NOT NULL);
"""

_LEDGER = """
SELECT l.seq, l.day, l.doc, o.doc ->> '$.user_id', coalesce(o.doc ->> '$.source', 'api'), o.doc ->> '$.status',
       o.doc ->> '$.filled', o.doc ->> '$.filled_value', o.doc ->> '$.cancelled', o.doc ->> '$.terms.quantity',
       o.doc ->> '$.status_message', o.doc ->> '$.updated_at',
       (SELECT json_group_array(json(t.doc)) FROM trades t WHERE t.order_id = l.order_id)
FROM ledger l JOIN orders o USING (order_id)
WHERE (?1 IS NULL OR l.day = ?1) AND (?2 IS NULL OR l.tag = ?2) AND l.seq > ?3 ORDER BY l.seq LIMIT ?4
"""


class Store:
    """Opens or creates `sandbox.db` in the data folder (0700)."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / "sandbox.db"
        path.touch(mode=0o600, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None, timeout=0.2)
        self._depth = 0
        try:
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
        except sqlite3.OperationalError as error:
            raise SandboxStartError(
                f"{path} cannot be opened ({error}): is another sandbox running on this data folder? Stop it first."
            ) from error

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside are one commit; nested ones join the outermost. An error rolls everything back."""
        if self._depth == 0:
            self._db.execute("BEGIN IMMEDIATE")
        self._depth += 1
        try:
            yield
        except BaseException:
            self._depth -= 1
            if self._depth == 0:
                self._db.execute("ROLLBACK")
            raise
        self._depth -= 1
        if self._depth == 0:
            self._db.execute("COMMIT")

    def get(self, key: str) -> Any:
        row = self._db.execute("SELECT doc FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, key: str, value: Any) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    def append_ledger(self, order_id: str, day: date, tag: str | None, entry: dict[str, Any]) -> None:
        self._db.execute(
            "INSERT INTO ledger (order_id, day, tag, doc) VALUES (?, ?, ?, ?)",
            (order_id, day.isoformat(), tag, json.dumps(entry)),
        )

    def ledger(self, day: str | None, tag: str | None, after: int, limit: int) -> list[dict[str, Any]]:
        """Accepted orders in the order of acceptance with where they stand and what they filled; every day's unless one is named."""
        return [_ledger_row(*row) for row in self._db.execute(_LEDGER, (day, tag, after, limit))]

    def save_order(self, order_id: str, day: date, seq: int, doc: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO orders VALUES (?, ?, ?, ?)", (order_id, day.isoformat(), seq, doc))

    def append_history(self, order_id: str, n: int, doc: bytes) -> None:
        self._db.execute("INSERT INTO history VALUES (?, ?, ?)", (order_id, n, doc.decode()))

    def save_trade(self, trade_id: str, day: date, order_id: str, doc: bytes) -> None:
        self._db.execute("INSERT INTO trades VALUES (?, ?, ?, ?)", (trade_id, day.isoformat(), order_id, doc.decode()))

    def orders(self, day: date) -> list[str]:
        rows = self._db.execute("SELECT doc FROM orders WHERE day = ? ORDER BY seq", (day.isoformat(),))
        return [row[0] for row in rows]

    def history(self, order_id: str) -> list[bytes]:
        rows = self._db.execute("SELECT doc FROM history WHERE order_id = ? ORDER BY n", (order_id,))
        return [row[0].encode() for row in rows]

    def trades(self, day: date) -> list[bytes]:
        rows = self._db.execute("SELECT doc FROM trades WHERE day = ? ORDER BY rowid", (day.isoformat(),))
        return [row[0].encode() for row in rows]

    def counts(self) -> dict[str, int]:
        """Rows ever written, all days: the numbers new orders and trades count on from."""
        return {
            "orders": int(self._db.execute("SELECT count(*) FROM orders").fetchone()[0]),
            "trades": int(self._db.execute("SELECT count(*) FROM trades").fetchone()[0]),
        }

    def save_prices(self, rows: Iterable[tuple[int, str]]) -> None:
        self._db.executemany("INSERT OR REPLACE INTO prices VALUES (?, ?)", rows)

    def prices(self) -> dict[int, Any]:
        return {token: json.loads(doc) for token, doc in self._db.execute("SELECT token, doc FROM prices")}

    def save_bars(self, token: int, bars: Iterable[Bar]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO bars VALUES (?, ?, ?, ?, ?, ?, ?, ?)", [(token, *bar) for bar in bars]
        )

    def bars(self, token: int, start: int, end: int) -> list[Bar]:
        rows = self._db.execute(
            "SELECT minute, o, h, l, c, v, oi FROM bars WHERE token = ? AND minute BETWEEN ? AND ? ORDER BY minute",
            (token, start, end),
        )
        return [(m, o, h, low, c, v, oi) for m, o, h, low, c, v, oi in rows]

    def last_bar_before(self, token: int, minute: int) -> Bar | None:
        row = self._db.execute(
            "SELECT minute, o, h, l, c, v, oi FROM bars WHERE token = ? AND minute < ? ORDER BY minute DESC LIMIT 1",
            (token, minute),
        ).fetchone()
        return None if row is None else (row[0], row[1], row[2], row[3], row[4], row[5], row[6])

    # Faults ---------------------------------------------------------------------------------------------------

    def save_fault_rule(self, rule_id: str, given_at: float, seen: int, chosen: int, fired: int, doc: str) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO fault_rules VALUES (?, ?, ?, ?, ?, ?)",
            (rule_id, given_at, seen, chosen, fired, doc),
        )

    def delete_fault_rule(self, rule_id: str) -> None:
        self._db.execute("DELETE FROM fault_rules WHERE id = ?", (rule_id,))

    def fault_rules(self) -> list[tuple[float, int, int, int, str]]:
        """given_at, seen, chosen, fired, doc: oldest first."""
        rows = self._db.execute("SELECT given_at, seen, chosen, fired, doc FROM fault_rules ORDER BY rowid")
        return [(at, seen, chosen, fired, doc) for at, seen, chosen, fired, doc in rows]

    def append_fault(self, kind: str, entry: dict[str, Any]) -> None:
        self._db.execute("INSERT INTO fault_log (kind, doc) VALUES (?, ?)", (kind, json.dumps(entry)))

    def fault_counts(self) -> dict[str, int]:
        return dict(self._db.execute("SELECT kind, count(*) FROM fault_log GROUP BY kind ORDER BY kind").fetchall())

    def fault_log(self, after: int, limit: int) -> list[dict[str, Any]]:
        """The last `limit` firings later than `after`, oldest first."""
        rows = self._db.execute(
            "SELECT seq, kind, doc FROM fault_log WHERE seq > ? ORDER BY seq DESC LIMIT ?", (after, limit)
        ).fetchall()
        return [{"seq": seq, "kind": kind, **json.loads(doc)} for seq, kind, doc in reversed(rows)]

    def save_fault_plan(self, order_id: str, doc: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO fault_plans VALUES (?, ?)", (order_id, doc))

    def delete_fault_plan(self, order_id: str) -> None:
        self._db.execute("DELETE FROM fault_plans WHERE order_id = ?", (order_id,))

    def fault_plans(self) -> dict[str, str]:
        return dict(self._db.execute("SELECT order_id, doc FROM fault_plans").fetchall())


def _ledger_row(
    seq: int, day: str, doc: str, account: str, source: str, status: str, filled: int, value: int, cancelled: int,
    quantity: int, message: str | None, updated_at: str, fills: str,
) -> dict[str, Any]:  # fmt: skip
    """`quantity` is what was placed, `final_quantity` what it was modified to; prices in rupees."""
    return {
        "seq": seq,
        "day": day,
        **json.loads(doc),
        "account": account,
        "source": source,
        "status": status,
        "status_message": message,
        "final_quantity": quantity,
        "filled_quantity": filled,
        "cancelled_quantity": cancelled,
        "average_price": round(value / filled / 100, 6) if filled else 0,
        "updated_at": updated_at,
        "fills": [
            {
                "trade_id": fill["trade_id"],
                "quantity": fill["quantity"],
                "price": fill["average_price"],
                "fill_timestamp": fill["fill_timestamp"],
            }
            for fill in json.loads(fills)
        ],
    }
