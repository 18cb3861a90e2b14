"""The system on one machine, without a shop or a management system of the sandbox.

    python -m sandbox.serve

SQLite and an SQS endpoint in memory stand in for what the environment does not name: INTEGRATOR_LEDGER_URL, and
INTEGRATOR_SQS_ENDPOINT_URL or INTEGRATOR_SQS_QUEUE_URL_PREFIX. Runs until Ctrl-C; what dies is started again.
"""

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from sqlalchemy import make_url, select

from integrator.ledger.schema import tenants
from integrator.secrets import KeyRing, SecretsError, new_key
from sandbox.foreground import Nurse, Parser, quoted, run, whole
from sandbox.system import System
from sandbox.system_process import SystemFailed, shown

LOOK_SECONDS = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; the exit status."""
    given = _parser().parse_args(arguments)
    console = Console()
    stopped = "Stopped. What is acknowledged is kept."
    return run(lambda: _serve(given, console), console, stopped=stopped, status=0)


def _serve(given: argparse.Namespace, console: Console) -> NoReturn:
    """Serve until a signal. Raises SystemFailed, OSError and KeyboardInterrupt."""
    settings = {name: value for name, value in os.environ.items() if name.startswith("INTEGRATOR_")}
    key, key_note = _secret_keys(given.folder, settings)
    system = System(
        given.folder,
        ledger_url=settings.get("INTEGRATOR_LEDGER_URL"),
        workers=given.workers,
        erp=False,
        bind=_bind(settings.get("INTEGRATOR_BIND", "127.0.0.1:8000"), given.port),
        extra_env={**settings, "INTEGRATOR_SECRET_KEYS": key},
    )
    system.add_control_plane(flower=True)
    try:
        began = time.monotonic()
        with console.status("Starting the parts …"):
            system.start()
        _introduce(system, console, key_note, time.monotonic() - began)
        nurse = Nurse(system, console)
        while True:
            nurse.look(time.monotonic())
            time.sleep(LOOK_SECONDS)
    finally:
        system.stop()


def _bind(address: str, port: int | None) -> str:
    """Where the receiver listens, HOST:PORT. Raises SystemFailed when the address is none."""
    host, _, given = address.rpartition(":")
    if port is None and not (given.isdecimal() and int(given) < 2**16):
        raise SystemFailed(f"INTEGRATOR_BIND is {address}; here it must be HOST:PORT, such as 127.0.0.1:8000.")
    return f"{host}:{given if port is None else port}"


def _secret_keys(folder: Path, settings: Mapping[str, str]) -> tuple[str, str]:
    """The keys that encrypt credentials, and where they are from; one is made when there is none.

    Raises SystemFailed when those in the environment are none.
    """
    if keys := settings.get("INTEGRATOR_SECRET_KEYS"):
        try:
            KeyRing(tuple(part.strip() for part in keys.split(",") if part.strip()))
        except SecretsError as error:
            raise SystemFailed(str(error)) from None
        return keys, "from INTEGRATOR_SECRET_KEYS"
    path = folder / "secret-key"
    if path.exists():
        return path.read_text().strip(), f"{shown(path)} (keep it: only it opens stored credentials)"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = new_key()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{key}\n")
    return key, f"{shown(path)}, made now (keep it: only it opens stored credentials)"


def _introduce(system: System, console: Console, key_note: str, seconds: float) -> None:
    places = ("INTEGRATOR_SQS_QUEUE_URL_PREFIX", "INTEGRATOR_SQS_ENDPOINT_URL")
    queue = next(system.environment[name] for name in places if name in system.environment)
    embedded = "in memory; a doorbell only, the ledger knows what is owed"
    rows = {
        "Webhooks": f"{system.receiver_url}/webhooks/<platform>/<shop key>",
        "Health": f"{system.receiver_url}/healthz and /readyz",
        "Ledger": _ledger(system),
        "Queue": f"{queue} ({embedded if system.own_queue else 'from the environment'})",
        "Secrets": key_note,
        **({"Flower": system.control.flower_note()} if system.control else {}),
        "Logs": f"{shown(system.folder.logs)}/",
    }
    _say(console, f"\n[bold]The integrator is up[/] after {seconds:.1f} s.\n")
    for name, text in rows.items():
        _say(console, f"{name:<10} {text}")
    _say(console, f"\n[bold]{_tenants(system)}[/] In another shell:\n")
    _say(console, f"[cyan]. {quoted(system.folder.env)}[/]  [dim]# the settings of this system[/]")
    _say(console, "[cyan].venv/bin/flask --app web tenants apply examples/tenants.yaml[/]")
    _say(console, "[dim]examples/tenants.yaml says which secrets it takes from that shell's environment.[/]")
    _say(console, "\n[dim]Ctrl-C stops everything.[/]")


def _ledger(system: System) -> str:
    url = make_url(system.ledger_url)
    if url.get_backend_name() == "sqlite":
        return f"{shown(Path(url.database or ''))} (SQLite)"
    return f"{url.render_as_string(hide_password=True)} (from INTEGRATOR_LEDGER_URL)"


def _tenants(system: System) -> str:
    ledger = system.ledger()
    try:
        with ledger.read() as connection:
            slugs = list(connection.execute(select(tenants.c.slug).order_by(tenants.c.slug).limit(6)).scalars())
    finally:
        ledger.close()
    return f"Tenants: {', '.join(slugs)}." if slugs else "There are no tenants yet."


def _say(console: Console, text: str) -> None:
    console.print(f"  {text}", highlight=False, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m sandbox.serve", description="Serve on this machine.")
    port = "of the receiver; default that of INTEGRATOR_BIND, or 8000"
    parser.add_argument("--port", type=whole(0, 2**16 - 1), help=port)
    parser.add_argument("--workers", type=whole(1, 64), default=2, help="worker processes; default 2")
    parser.add_argument("--folder", type=Path, default=Path("var/serve"), help="for all that is kept")
    return parser


if __name__ == "__main__":
    sys.exit(main())
