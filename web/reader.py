"""Reads of the ledger with a deadline, and the look-up of a shop by its webhook key."""

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from integrator import connectors
from integrator.ledger.access import ShopRow, find_shop
from integrator.ledger.engine import Ledger
from integrator.secrets import KeyRing
from web.batcher import Batcher, Job, Steps, wait_through

Result = TypeVar("Result")

SHOP_SECONDS = 2.0
"""How long a shop is remembered: a rotated secret or a deactivated shop counts after that."""

SHOPS_REMEMBERED = 10_000
"""How many keys are remembered at most; as many again that are no shop's, so that guesses push no shop out."""

KEY_LIMIT = 256
"""Characters of the longest key that is looked up."""


class Reader:
    """Runs short reads one after the other in a thread of its own."""

    def __init__(self, ledger: Ledger, *, stall_seconds: float) -> None:
        self._ledger = ledger
        self._batcher = Batcher[Callable[[Connection], Any], Any](
            "reader", self._work, size=16, stall_seconds=stall_seconds
        )

    def read(self, query: Callable[[Connection], Result], deadline: float) -> Result:
        """Run the query in a reading transaction, and wait for it. Raises Busy, or what the query raised."""
        return wait_through(self.ask(query, deadline))

    def ask(self, query: Callable[[Connection], Result], deadline: float) -> Steps[Result]:
        """The same for those who wait in steps."""
        return cast("Steps[Result]", self._batcher.ask(query, deadline))

    def _work(self, jobs: list[Job[Callable[[Connection], Any], Any]]) -> tuple[()]:
        for job in jobs:
            if not job.late:
                self._settle(job)
        return ()

    def _settle(self, job: Job[Callable[[Connection], Any], Any]) -> None:
        try:
            job.succeed(self._run(job.item))
        except DBAPIError as error:
            if not error.connection_invalidated:
                job.fail(error)
                return
            # The database was restarted: the pool has dropped its old connections, a new one may work.
            try:
                job.succeed(self._run(job.item))
            except Exception as again:  # noqa: BLE001 - the caller learns of it
                job.fail(again)
        except Exception as error:  # noqa: BLE001 - the caller learns of it
            job.fail(error)

    def _run(self, query: Callable[[Connection], Any]) -> Any:
        with self._ledger.read() as connection:
            return query(connection)


class Shops:
    """Finds shops by their webhook keys, and remembers them for a moment. Threads share it."""

    def __init__(self, reader: Reader, ring: Callable[[], KeyRing]) -> None:
        self._reader = reader
        self._ring = ring
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, ShopRow | None]] = {}
        self._unknown: dict[str, tuple[float, ShopRow | None]] = {}

    def find(self, platform: str, key: str, deadline: float) -> Steps[ShopRow | None]:
        """The shop of this platform with this key. Raises Busy, SQLAlchemyError, SecretsError."""
        if len(key) > KEY_LIMIT:
            return None
        remembered = self._remembered(key)
        if remembered is None:
            shop = yield from self._reader.ask(lambda c: self._look_up(c, key), deadline)
        else:
            shop = remembered[1]
        return shop if shop is not None and shop.platform == platform else None

    def _remembered(self, key: str) -> tuple[float, ShopRow | None] | None:
        found = self._known.get(key) or self._unknown.get(key)
        return found if found is not None and found[0] > time.monotonic() else None

    def _look_up(self, connection: Connection, key: str) -> ShopRow | None:
        if (meanwhile := self._remembered(key)) is not None:
            return meanwhile[1]
        until = time.monotonic() + SHOP_SECONDS
        shop = find_shop(connection, key, self._ring())
        if shop is not None:
            with contextlib.suppress(connectors.NoConnector):
                connectors.shop(shop.platform)  # loaded here once, and not by every request that finds it missing
        with self._lock:
            self._known.pop(key, None)
            self._unknown.pop(key, None)
            memory = self._unknown if shop is None else self._known
            while len(memory) >= SHOPS_REMEMBERED:
                del memory[next(iter(memory))]
            memory[key] = (until, shop)
        return shop
