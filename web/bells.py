"""Ringing the bells through Celery, which is loaded only when there is something to ring."""

import threading

from integrator.dispatch import Publish
from integrator.ledger.records import Rung
from integrator.logs import describe, get_logger

log = get_logger(__name__)


class Bells:
    """Publishes through the Celery app. Whatever is wrong there, webhooks are kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._publish: Publish | None = None

    def load(self) -> Publish | None:
        """Load the Celery app, once. None when it can't be loaded; it is tried again the next time."""
        with self._lock:
            if self._publish is None:
                try:
                    from tasks.publishing import publisher  # noqa: PLC0415 - the commands need no Celery

                    self._publish = publisher()
                except Exception as error:  # noqa: BLE001 - the ledger keeps what is owed
                    log.error("bells_unusable", **describe(type(error), error.__traceback__))  # noqa: TRY400
            return self._publish

    def __call__(self, rung: list[Rung], /) -> list[Rung]:
        """Publish one message each; those that did not go out."""
        publish = self.load()
        return rung if publish is None else publish(rung)
