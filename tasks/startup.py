"""What a worker makes sure of before it takes a message: each refusal is one sentence for people."""

from integrator import readiness
from integrator.config import Settings
from integrator.ledger.engine import Ledger
from tasks import queues


class Refused(Exception):
    """This process must not start. Its text is for people."""


def check(given: Settings, ledger: Ledger) -> None:
    """Check the ledger, the key ring and the queues. Raises Refused."""
    try:
        readiness.check(given, ledger)
        for queue in queues.QUEUES:
            queues.check(queue, given)
    except queues.QueueMismatch as error:
        raise Refused(str(error)) from error
    except readiness.EXPECTED as error:
        raise Refused(readiness.sentence(error, ledger.url)) from error
    finally:
        ledger.close()  # a pool of processes forks after this
