"""How a database would run the statements of a piece of code: their plans, in its own words."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, event, text

from integrator.ledger.engine import Ledger


@dataclass(frozen=True)
class Plan:
    """One statement and its plan."""

    statement: str
    plan: str

    def scans(self, table: str) -> bool:
        """Whether it reads the whole table."""
        return f"Seq Scan on {table}" in self.plan or f"SCAN {table}" in self.plan.replace(
            f"SCAN {table} USING", ""
        )


def analyze(ledger: Ledger) -> None:
    """Let the planner know how much there is."""
    with ledger.engine.connect() as connection:
        connection.execute(text("ANALYZE"))
        connection.commit()


def plans(ledger: Ledger, run: Callable[[Connection], object], *, about: str) -> list[Plan]:
    """The plans of the statements that `run` executes and that name `about`. Nothing of it is kept."""
    seen: list[tuple[str, Any]] = []

    def listen(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        seen.append((statement, parameters[0] if many else parameters))

    explain = "EXPLAIN QUERY PLAN" if ledger.on_sqlite else "EXPLAIN"
    with ledger.engine.connect() as connection:
        event.listen(connection, "before_cursor_execute", listen)
        run(connection)
        event.remove(connection, "before_cursor_execute", listen)
        found = [
            Plan(
                statement,
                "\n".join(str(row[-1]) for row in connection.exec_driver_sql(f"{explain} {statement}", given)),
            )
            for statement, given in seen
            if about in statement and not statement.startswith(("INSERT", "SET"))
        ]
        connection.rollback()
    return found
