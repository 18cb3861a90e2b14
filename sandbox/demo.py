"""The system at work: two shops send orders, and two management systems get to hold exactly what the shops know.

    python -m sandbox.demo --orders 300 --duplicates 10 --reorder 20 --exit --report demo.json

Everything is a real process on this machine. Exit status 1 when an order is lost, duplicated or mismatched, or
when it does not come to an end.
"""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from rich.console import Console

from integrator.ledger.engine import Ledger
from sandbox import demo_ledger, demo_view
from sandbox.demo_report import Comparison, Report, StoredOrder, make_report
from sandbox.demo_tenants import MODEST, MODEST_ORDERS, OVERRUN, DemoTenant, stored_orders
from sandbox.demo_view import Snapshot, View
from sandbox.foreground import Nurse, Parser, number, quoted, run, whole, writable_file
from sandbox.shop import SendOptions
from sandbox.system import System
from sandbox.system_process import READY_SECONDS, SystemFailed, shown

SLUGS = ("acme", "globex")
LOOK_SECONDS = 0.2
"""How often the bars move."""

STOP_SECONDS = 10
"""How long the parts may take to end; nothing is left for them to do by then."""

NAMED = 5
"""How many orders that are wrong are named; a report counts them all."""


class Demo:
    """One run."""

    def __init__(self, given: argparse.Namespace, console: Console, ledger_url: str | None = None) -> None:
        self.given, self.console = given, console
        erps = tuple(f"erp-{slug}" for slug in (*SLUGS, *([] if given.exit else [MODEST])))
        self.system = System(given.folder, ledger_url=ledger_url, workers=given.workers, erp=erps)
        self.system.add_control_plane(flower=not given.exit)
        self.nurse = Nurse(self.system, console)
        counts = [given.orders // 2 + given.orders % 2, given.orders // 2]
        self.tenants = [
            DemoTenant.make(slug, count, seed=given.seed + n)
            for n, (slug, count) in enumerate(zip(SLUGS, counts, strict=True))
        ]
        self.modest = None if given.exit else DemoTenant.make(MODEST, MODEST_ORDERS, seed=given.seed + 2)

    def run(self) -> int:
        """Run to the end, or until Ctrl-C; the exit status. Raises SystemFailed."""
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            self.system.clear()
            stack.callback(self.system.stop, STOP_SECONDS)
            with self.console.status("Starting the parts …"):
                self.system.start()
            for tenant in filter(None, (*self.tenants, self.modest)):
                stack.enter_context(tenant.shop)
                stack.callback(tenant.stop)
            self._apply()
            self._introduce(time.monotonic() - began)
            ledger = self.system.ledger()
            stack.callback(ledger.close)
            status = self._work(ledger)
            if not self.given.exit:
                with contextlib.suppress(KeyboardInterrupt):
                    self._stay()
        if not self.given.exit:
            self._say("\n  Stopped.")
        return status

    def _apply(self) -> None:
        documents = [tenant.document(self.system.erp_urls[f"erp-{tenant.slug}"]) for tenant in self.tenants]
        secrets = {name: value for tenant in self.tenants for name, value in tenant.secrets().items()}
        if self.modest:
            documents.append(self.modest.document(self.system.erp_urls[f"erp-{MODEST}"], plan={}))
            secrets |= self.modest.secrets()
        self.system.apply({"tenants": documents}, secrets)

    def _work(self, ledger: Ledger) -> int:
        """Send everything, wait until all of it is done, and say what came of it."""
        options = SendOptions(
            concurrency=4,
            duplicates=self.given.duplicates / 100,
            reordering=self.given.reorder / 100,
            orders_per_second=self.given.rate / len(self.tenants),
            seed=self.given.seed,
        )
        began = time.monotonic()
        for tenant in self.tenants:
            tenant.prepare(self.system.webhook_url(tenant.shop.platform, tenant.key), options)
        finished = self._send(ledger, began)
        report, compared = self._compare(ledger, time.monotonic() - began)
        self._tell(ledger, report, compared, finished=finished)
        if self.given.report:
            self.given.report.write_text(json.dumps(report.as_dict(), indent=2) + "\n")
            self.console.print(f"\n  Written to {shown(self.given.report)}.", highlight=False)
        return report.exit_status if finished else 1

    def _send(self, ledger: Ledger, began: float) -> bool:
        """Send round by round, each to its end; False when the time is over first. Raises SystemFailed."""
        view = demo_view.view(self.console)
        try:
            return all(self._round(number, ledger, view, began) for number in range(len(self.tenants[0].senders)))
        finally:
            view.close()

    def _round(self, number: int, ledger: Ledger, view: View, began: float) -> bool:
        senders = [tenant.senders[number].start() for tenant in self.tenants]
        while True:
            self.nurse.look(time.monotonic())
            sent = not any(sender.progress().outstanding for sender in senders)  # before the ledger is looked at
            now = self._snapshot(ledger, time.monotonic() - began)
            view.show(now)
            if (sent and now.at_rest) or now.seconds > self.given.limit:
                return sent and now.at_rest
            time.sleep(LOOK_SECONDS)

    def _snapshot(self, ledger: Ledger, seconds: float) -> Snapshot:
        progress = [tenant.progress() for tenant in self.tenants]
        states = demo_ledger.states(ledger)
        return Snapshot(
            seconds,
            deliveries=sum(one.deliveries for one in progress),
            sent=sum(one.requests for one in progress),
            acknowledged=sum(one.acknowledged for one in progress),
            orders=sum(len(tenant.lives) for tenant in self.tenants),
            synced=states.get("done", 0),
            in_flight=states.get("queued", 0) + states.get("running", 0),
            waiting=states.get("pending", 0) + states.get("retrying", 0),
            stuck=states.get("held", 0) + states.get("dead", 0),
        )

    def _compare(self, ledger: Ledger, seconds: float) -> tuple[Report, list[tuple[str, Comparison]]]:
        outcomes = {
            tenant.slug: tenant.outcome(
                self._stored(tenant.slug),
                demo_ledger.unneeded(ledger, tenant.slug),
            )
            for tenant in self.tenants
        }
        compared = [(slug, outcome.comparison()) for slug, outcome in outcomes.items()]
        return make_report(list(outcomes.values()), seconds), compared

    def _stored(self, slug: str) -> list[StoredOrder]:
        """What a management system holds. Raises SystemFailed when it does not come back."""
        give_up = time.monotonic() + READY_SECONDS
        while True:
            self.nurse.look(time.monotonic())
            try:
                return stored_orders(self.system.erp_urls[f"erp-{slug}"])
            except (OSError, HTTPException):
                if time.monotonic() > give_up:
                    raise SystemFailed(f"erp-{slug} does not list its orders. Its log says why.") from None
            time.sleep(LOOK_SECONDS)

    # What is said

    def _introduce(self, seconds: float) -> None:
        events = sum(len(life.events) for tenant in self.tenants for life in tenant.lives)
        cancelled = sum(life.facts.cancelled for tenant in self.tenants for life in tenant.lives)
        refunds = sum(len(life.facts.credits or ()) for tenant in self.tenants for life in tenant.lives)
        self._say(
            f"[bold]{len(self.system.processes)} processes[/] are up after {seconds:.1f} s: receiver, scheduler, "
            f"{self.given.workers} workers,\n  an SQS endpoint, {self._control_parts()}"
            f"{len(self.system.erp_urls)} management systems.\n"
        )
        self._say(
            f"The shops of [bold]acme[/] and [bold]globex[/] tell of {self.given.orders} orders in {events} "
            f"webhooks,\n  {self.given.duplicates:g} % of them twice and {self.given.reorder:g} % of the orders "
            f"out of order. In the end they have refunded {refunds} times and cancelled {cancelled}.\n"
            "  Both count their orders with the same numbers.\n"
        )

    def _control_parts(self) -> str:
        return (
            "".join(f"{name}, " for name in ("Redis", "Flower") if name.lower() in self.system.processes) + "and "
        )

    def _tell(
        self, ledger: Ledger, report: Report, compared: list[tuple[str, Comparison]], *, finished: bool
    ) -> None:
        self.console.print()
        if not finished:
            self._say(f"[bold red]Not finished after {self.given.limit:g} s.[/] What is open is listed below.\n")
        progress = [tenant.progress() for tenant in self.tenants]
        failures = sum(one.failures.total() for one in progress)
        unneeded = sum(len(one.unneeded) for _, one in compared)
        notes = {
            "sent": f"webhooks, {sum(one.duplicates for one in progress)} of them duplicates"
            + f", {failures} sent again" * bool(failures),
            "acknowledged": "answered 200, after the commit",
            "unique_orders": f"{sum(one.reordered for one in progress)} of them told out of order",
            "erp_orders": "in the two management systems" + f", {unneeded} cancelled before that" * bool(unneeded),
            "erp_credits": "one for each refund",
            "lost": "acknowledged, but not there",
            "duplicated": "there more than once",
            "mismatched": "not as the shop has it",
            "ack_ms": "p50 / p99, the shops' view",
            "sync_ms": "p50 / p99, first 200 to create",
        }
        if finished and not report.exit_status:
            self._say("[bold green]Every order and every refund arrived, exactly once.[/]\n")
        self.console.print(demo_view.result(report, notes))
        if troubles := demo_ledger.troubles(ledger):
            self.console.print(demo_view.stuck(troubles))
        for slug, one in compared:
            for name in ("lost", "duplicated", "mismatched"):
                if wrong := getattr(one, name):
                    self._say(f"[red]{name}[/] at {slug}: {', '.join(wrong[:NAMED])}{' …' * (len(wrong) > NAMED)}")

    def _stay(self) -> None:
        env, worker = quoted(self.system.folder.env), quoted(self.system.folder.pid_file("worker-1"))
        places = {
            "Receiver": f"{self.system.receiver_url}/readyz",
            **{
                f"Orders of {slug}": f"{self.system.erp_urls[f'erp-{slug}']}/_sandbox/orders?limit=3"
                for slug in SLUGS
            },
            **({"Flower": self.system.control.flower_note()} if self.system.control else {}),
            "Ledger": demo_ledger.shown_place(self.system.ledger_url),
            "Logs": f"{shown(self.system.folder.logs)}/",
        }
        self._say("\n  [bold]It is still up.[/] Have a look:\n")
        for name, place in places.items():
            self._say(f"  {name:<17} {place}")
        self._say(f"\n  [bold]Try in another shell[/], after [cyan]. {env}[/]:\n")
        for command in (
            ".venv/bin/flask --app web tenants list",
            ".venv/bin/flask --app web tenants check",
            ".venv/bin/celery -A tasks syncs list --state done --limit 3",
            ".venv/bin/celery -A tasks syncs audit",
            ".venv/bin/celery -A tasks pause acme",
            ".venv/bin/celery -A tasks gates list",
            f".venv/bin/celery -A tasks plan {MODEST} --per-day 5000",
            *([".venv/bin/celery -A tasks inspect stats"] if self.system.control else []),
            f"kill -9 $(cat {worker})",
        ):
            self._say(f"  [cyan]{command}[/]")
        if self.modest:
            self.modest.overrun(self.system.receiver_url, self.given.rate)
            self._say(f"\n  {OVERRUN}")
        self._say("\n  [dim]Ctrl-C stops everything.[/]")
        while True:
            self.nurse.look(time.monotonic())
            time.sleep(LOOK_SECONDS)

    def _say(self, text: str) -> None:
        self.console.print(f"  {text}", highlight=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; the exit status."""
    given = parser().parse_args(arguments)
    console = Console()

    def work() -> int:
        with demo_ledger.place(given.ledger) as ledger_url:
            return Demo(given, console, ledger_url).run()

    return run(work, console, stopped="Stopped.", status=130)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = Parser(prog="python -m sandbox.demo", description="Show the system at work.")
    made.add_argument("--orders", type=whole(2, 100_000), default=200, help="of both shops together; default 200")
    made.add_argument("--duplicates", type=number(0, 100), default=10, help="percent of webhooks that come twice")
    made.add_argument("--reorder", type=number(0, 100), default=20, help="percent of orders told out of order")
    made.add_argument("--rate", type=number(0.1, 10_000), default=10, help="new orders a second; default 10")
    made.add_argument("--workers", type=whole(1, 64), default=2, help="worker processes; default 2")
    made.add_argument(
        "--seed", type=whole(-(2**63), 2**63), default=1, help="other orders, duplicates and reordering"
    )
    made.add_argument(
        "--limit", type=number(1, 86_400), default=300, help="seconds after which it gives up; default 300"
    )
    made.add_argument(
        "--ledger", default="sqlite", help="sqlite (default), postgresql, or an empty database's URL"
    )
    made.add_argument("--folder", type=Path, default=Path("var/demo"), help="for all that is kept")
    made.add_argument("--report", type=writable_file, help="write the numbers here, as JSON")
    made.add_argument("--exit", action="store_true", help="end when everything is done")
    return made


if __name__ == "__main__":
    sys.exit(main())
