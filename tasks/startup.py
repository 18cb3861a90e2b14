"""What a worker makes sure of before it takes a message: each refusal is one sentence for people."""

from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from integrator.config import Settings
from integrator.ledger.engine import Ledger, LossyLedger
from integrator.ledger.migrate import OldSchema
from integrator.ledger.migrate import check as check_schema
from integrator.ledger.schema import erps
from integrator.secrets import KeyRing, SecretsError
from tasks import queues

AWAY = (DBAPIError, OSError)
"""What is raised when the ledger can't be reached; OSError for the folder of an SQLite file."""


class Refused(Exception):
    """This process must not start. Its text is for people."""


def check(given: Settings, ledger: Ledger) -> None:
    """Check the schema, the ledger's durability, the key ring and the queues. Raises Refused."""
    try:
        check_schema(ledger)
        if not given.allow_lossy_ledger:
            ledger.check_durability()
        _check_ring(given, ledger)
        for queue in queues.QUEUES:
            queues.check(queue, given)
    except (OldSchema, LossyLedger, SecretsError, queues.QueueMismatch) as error:
        raise Refused(str(error)) from error
    except AWAY as error:
        raise Refused(unreachable(error)) from error
    finally:
        ledger.close()  # a pool of processes forks after this


def _check_ring(given: Settings, ledger: Ledger) -> None:
    ring = KeyRing(tuple(key.get_secret_value() for key in given.secret_keys))
    with ledger.read() as connection:
        newest = connection.execute(select(erps.c.secrets).order_by(erps.c.id.desc()).limit(1)).scalar()
    if newest is not None:
        ring.open(newest)


def unreachable(error: Exception) -> str:
    """The sentence for a ledger that can't be reached."""
    return f"The ledger can't be reached ({type(error).__name__}). Is it up, and is INTEGRATOR_LEDGER_URL right?"
