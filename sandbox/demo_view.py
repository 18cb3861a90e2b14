"""What the demo shows: bars on a terminal, a plain line each second elsewhere, and the result as a table."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from sandbox.demo_ledger import Trouble
from sandbox.demo_report import Report

LINE_SECONDS = 1.0
"""How often a plain line is written."""


@dataclass(frozen=True)
class Snapshot:
    """How far the demo is. `deliveries` and `orders` are what there will be in the end."""

    seconds: float
    deliveries: int
    sent: int
    acknowledged: int
    orders: int
    synced: int
    in_flight: int
    waiting: int
    stuck: int

    @property
    def at_rest(self) -> bool:
        """Whether nothing is left that moves by itself."""
        return not self.in_flight and not self.waiting

    @property
    def finished(self) -> bool:
        """Whether nothing is left to send either."""
        return self.acknowledged >= self.deliveries and self.at_rest

    def work(self) -> str:
        """What is on its way, in words."""
        parts = [f"{self.in_flight} in flight", f"{self.waiting} waiting"]
        return " · ".join(parts + [f"{self.stuck} held"] * bool(self.stuck))


class View(Protocol):
    """Shows how far the demo is."""

    def show(self, now: Snapshot) -> None:
        """Show this."""
        ...

    def close(self) -> None:
        """Show nothing more."""
        ...


class Bars:
    """Bars that move."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("  {task.description:<13}"),
            BarColumn(32, complete_style="cyan", finished_style="green"),
            MofNCompleteColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
        )
        names = ("sent", "acknowledged", "synced")
        self._tasks: dict[str, TaskID] = {name: self._progress.add_task(name, note="") for name in names}
        self._progress.start()

    def show(self, now: Snapshot) -> None:
        """Move the bars."""
        self._put("sent", min(now.sent, now.deliveries), now.deliveries, "webhooks")
        self._put("acknowledged", now.acknowledged, now.deliveries, "answered 200")
        self._put("synced", now.synced, now.orders, now.work())

    def _put(self, name: str, done: int, total: int, note: str) -> None:
        self._progress.update(self._tasks[name], completed=done, total=total, note=note)

    def close(self) -> None:
        """Leave the bars as they are."""
        self._progress.stop()


class Lines:
    """A line now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = 0.0

    def show(self, now: Snapshot) -> None:
        """Write a line, if the last one is a second old."""
        if time.monotonic() < self._next and not now.finished:
            return
        self._next = time.monotonic() + LINE_SECONDS
        self._console.print(
            f"{now.seconds:5.1f} s  sent {now.sent}  acknowledged {now.acknowledged}/{now.deliveries}  "
            f"synced {now.synced}/{now.orders}  {now.work()}",
            highlight=False,
            soft_wrap=True,
        )

    def close(self) -> None:
        """Nothing is left to close."""


def view(console: Console) -> View:
    """The view that suits the output."""
    return Bars(console) if console.is_terminal else Lines(console)


def result(report: Report, notes: dict[str, str]) -> Table:
    """The numbers as a table; `notes` says something of a row."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    for name, value in report.as_dict().items():
        if name.endswith("_p99"):
            continue
        shown_as = name.removesuffix("_p50")
        text = _number(value)
        if name.endswith("_p50"):
            text = f"{text} / {_number(report.as_dict()[f'{shown_as}_p99'])}"
        table.add_row(shown_as, Text(text, style=_style(name, value)), notes.get(shown_as, ""))
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,}"


def _style(name: str, value: float | None) -> str:
    if name not in {"lost", "duplicated", "mismatched"}:
        return ""
    return "bold red" if value else "bold green"


def stuck(troubles: Sequence[Trouble]) -> Table:
    """What is not done and why, and what a person can do."""
    table = Table(title="Not done", title_justify="left", title_style="bold red")
    for heading in ("syncs", "state", "error", "what to do"):
        table.add_column(heading, overflow="fold")
    for trouble in troubles:
        error = f"{trouble.error_class}: {trouble.message}" if trouble.error_class else "-"
        table.add_row(str(trouble.count), trouble.state, escape(error), escape(trouble.remedy or "-"))
    return table
