"""The sandbox management system without its HTTP: what is refused, what is accepted, and one key at a time."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sandbox.erp_faults import Faults, RequestKind
from sandbox.erp_order import (
    Content,
    CreditContent,
    Refusal,
    check_total,
    read_cancellation,
    read_content,
    read_credit,
    taxes,
)
from sandbox.erp_store import Record, Store


class System:
    """What all connections share."""

    def __init__(self, file: Path, token: str | None) -> None:
        self.store, self.faults, self.token = Store(file), Faults(), token
        self._lock = threading.Lock()
        self._working: set[str] = set()

    @contextmanager
    def working_on(self, key: str) -> Iterator[None]:
        """Keep a second request with the key out. Raises Refusal(409, in_progress)."""
        if self.faults.settings.forget_keys:
            yield
            return
        with self._lock:
            if key in self._working:
                raise Refusal(409, "in_progress", retry_after_seconds=1)
            self._working.add(key)
        try:
            yield
        finally:
            with self._lock:
                self._working.discard(key)

    def accept(
        self, kind: RequestKind, order_id: str, key: str, method: str, path: str, body: bytes
    ) -> tuple[int, Record]:
        """Have a request's effect, once for its key: the status and the order. Raises Refusal."""

        def effect() -> tuple[int, Record]:
            if kind == "cancel":
                return 200, self.store.cancel(order_id, read_cancellation(body, key).key)
            if kind == "credit":
                credit = read_credit(body, key)
                check_total(credit)
                self._check_known(credit)
                return 201, self.store.credit(order_id, credit)
            content = read_content(body, key)
            check_total(content)
            self._check_known(content)
            if kind == "create":
                return 201, self.store.create(content)
            return 200, self.store.replace(order_id, content)

        request = hashlib.sha256(f"{method} {path}\n".encode() + body).hexdigest()
        return self.store.accept(key, request, effect, remember=not self.faults.settings.forget_keys)

    def _check_known(self, content: Content | CreditContent) -> None:
        """Raises Refusal(422) for closed books, and for a SKU, tax or payment state that is said to be unknown."""
        settings = self.faults.settings
        if settings.books_closed:
            raise Refusal(422, "books_closed")
        for line in content.lines:
            if line.sku in settings.unknown_skus:
                raise Refusal(422, "unknown_sku", sku=line.sku or "")
        for tax in taxes(content):
            if tax.title in settings.unknown_taxes:
                raise Refusal(422, "unknown_tax", tax=tax.title)
        if isinstance(content, Content) and content.payment_state in settings.unknown_payments:
            raise Refusal(422, "unknown_payment", payment=content.payment_state)
