"""What the sandbox management system keeps, in one SQLite file: orders, their credits, and keys of requests.

A key, its answer and its effect are one transaction, so a process that is killed at any instant has kept all
of them or none. Two orders or credits with one reference are both stored: only keys keep them out.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sandbox.erp_order import Content, CreditContent, Refusal

_SCHEMA = """
create table if not exists orders (
    id integer primary key autoincrement,
    reference text not null,
    state text not null,
    currency text not null,
    total text not null,
    content text not null,
    applied_keys text not null,
    created_at real not null
);
create index if not exists orders_reference on orders (reference);
create table if not exists credits (
    id integer primary key autoincrement,
    order_id integer not null,
    key text not null,
    content text not null
);
create index if not exists credits_order on credits (order_id);
create table if not exists keys (
    key text primary key,
    request text not null,
    status integer not null,
    answer text not null
) without rowid;
"""

Record = dict[str, Any]
Effect = Callable[[], tuple[int, Record]]


class Store:
    """One connection for all threads, one at a time."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = normal")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Wait for the transaction under way, then close the file."""
        with self._lock:
            self._db.close()

    def accept(self, key: str, request: str, effect: Effect, *, remember: bool) -> tuple[int, Record]:
        """Have the effect once for the key; a repeat gets the first answer.

        `request` tells two requests with one key apart. Raises Refusal(409, key_reused), and what the effect
        raises. Without `remember` the key is neither looked at nor kept.
        """
        with self._transaction():
            known = self._db.execute("select * from keys where key = ?", (key,)).fetchone() if remember else None
            if known and known["request"] != request:
                raise Refusal(409, "key_reused")
            if known:
                return known["status"], json.loads(known["answer"])
            status, record = effect()
            if remember:
                row = (key, request, status, json.dumps(record))
                self._db.execute("insert into keys values (?, ?, ?, ?)", row)
            return status, record

    def create(self, content: Content) -> Record:
        """Store a new order, whatever else carries its reference. Inside `accept`."""
        row = (content.reference, content.currency, content.total, content.model_dump_json())
        made = self._db.execute(
            "insert into orders (reference, state, currency, total, content, applied_keys, created_at)"
            " values (?, 'open', ?, ?, ?, ?, ?) returning *",
            (*row, json.dumps([content.key]), time.time()),
        ).fetchone()
        return self._record(made)

    def replace(self, order_id: str, content: Content) -> Record:
        """Give an order new content. Inside `accept`. Raises Refusal(404) and Refusal(409, cancelled)."""
        row = self._row(order_id)
        if row["state"] == "cancelled":
            raise Refusal(409, "cancelled")
        changed = self._db.execute(
            "update orders set reference = ?, currency = ?, total = ?, content = ?, applied_keys = ?"
            " where id = ? returning *",
            (
                content.reference,
                content.currency,
                content.total,
                content.model_dump_json(),
                _with_key(row, content.key),
                row["id"],
            ),
        ).fetchone()
        return self._record(changed)

    def credit(self, order_id: str, content: CreditContent) -> Record:
        """Credit an order, cancelled or not, whatever else carries the reference. Inside `accept`.

        Raises Refusal(404), and Refusal(422, invalid) for another currency than the order's.
        """
        row = self._row(order_id)
        if content.currency != row["currency"]:
            raise Refusal(422, "invalid", detail="currency: not the order's")
        self._db.execute(
            "insert into credits (order_id, key, content) values (?, ?, ?)",
            (row["id"], content.key, content.model_dump_json()),
        )
        changed = self._db.execute(
            "update orders set applied_keys = ? where id = ? returning *", (_with_key(row, content.key), row["id"])
        ).fetchone()
        return self._record(changed)

    def cancel(self, order_id: str, key: str) -> Record:
        """Cancel an order, which may be cancelled already. Inside `accept`. Raises Refusal(404)."""
        row = self._row(order_id)
        changed = self._db.execute(
            "update orders set state = 'cancelled', applied_keys = ? where id = ? returning *",
            (_with_key(row, key), row["id"]),
        ).fetchone()
        return self._record(changed)

    def mend(self, order_id: str, state: str | None, totals: Mapping[str, str | None]) -> Record:
        """What a person does: another state, other totals of credits by their ids, or none for one to remove.

        Raises Refusal(404).
        """
        with self._transaction():
            row = self._row(order_id, removed=True)
            for credit in self._credits(row):
                if (name := credit["id"]) not in totals:
                    continue
                number, total = int(name.removeprefix("CN")), totals[name]
                if total is None:
                    self._db.execute("delete from credits where id = ?", (number,))
                else:
                    changed = "update credits set content = json_set(content, '$.total', ?) where id = ?"
                    self._db.execute(changed, (total, number))
            self._db.execute("update orders set state = ? where id = ?", (state or row["state"], row["id"]))
            return self._record(self._row(order_id, removed=True))

    def read(self, order_id: str) -> Record:
        """One order. Raises Refusal(404)."""
        with self._lock:
            return self._record(self._row(order_id))

    def find(self, reference: str) -> list[Record]:
        """Every order with the reference, oldest first."""
        with self._lock:
            rows = self._db.execute(
                "select * from orders where reference = ? and state <> 'removed' order by id", (reference,)
            )
            return [self._record(row) for row in rows]

    def page(self, after: int, limit: int) -> Record:
        """Orders with all that was sent, from the one after number `after`; `next` goes on, or is null.

        `creates` counts all orders ever stored, `references` the different references among them.
        """
        with self._lock:
            rows = self._db.execute(
                "select * from orders where id > ? order by id limit ?", (after, limit + 1)
            ).fetchall()
            creates, references = self._db.execute(
                "select count(*), count(distinct reference) from orders"
            ).fetchone()
            orders = [
                {
                    **json.loads(row["content"]),
                    **self._record(row),
                    "credits": self._credits(row),
                    "created_at": row["created_at"],
                }
                for row in rows[:limit]
            ]
        more = rows[limit - 1]["id"] if len(rows) > limit else None
        return {"orders": orders, "next": more, "creates": creates, "references": references}

    def _row(self, order_id: str, *, removed: bool = False) -> sqlite3.Row:
        number = order_id.removeprefix("SO")
        known = number.isdecimal() and len(number) < 18 and order_id == _id(int(number))
        row = self._db.execute("select * from orders where id = ?", (int(number) if known else -1,)).fetchone()
        if row is None or (row["state"] == "removed" and not removed):
            raise Refusal(404, "not_found")
        found: sqlite3.Row = row
        return found

    def _record(self, row: sqlite3.Row) -> Record:
        return {
            "id": _id(row["id"]),
            "reference": row["reference"],
            "state": row["state"],
            "total": row["total"],
            "currency": row["currency"],
            "applied_keys": json.loads(row["applied_keys"]),
            "credits": [
                {"id": credit["id"], **{name: credit[name] for name in ("key", "reference", "total")}}
                for credit in self._credits(row)
            ],
        }

    def _credits(self, row: sqlite3.Row) -> list[Record]:
        """The credits of an order with all that was sent, oldest first."""
        rows = self._db.execute("select * from credits where order_id = ? order by id", (row["id"],))
        return [{"id": f"CN{credit['id']:06d}", **json.loads(credit["content"])} for credit in rows]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._db.execute("begin immediate")
            try:
                yield
            except BaseException:
                self._db.execute("rollback")
                raise
            self._db.execute("commit")


def _id(number: int) -> str:
    return f"SO{number:06d}"


def _with_key(row: sqlite3.Row, key: str) -> str:
    keys = json.loads(row["applied_keys"])
    return json.dumps([*keys, *({key} - set(keys))])
