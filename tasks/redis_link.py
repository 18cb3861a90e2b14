"""Connections to the Redis of the control plane: where it is, and with a deadline on everything."""

import os
import ssl
from typing import Any

from kombu.connection import Connection
from kombu.exceptions import OperationalError

from integrator.config import settings

CONNECT_SECONDS = 2
ANSWER_SECONDS = 3
"""How long one command may take before the connection counts as lost."""

OPTIONS: dict[str, Any] = {
    "socket_connect_timeout": CONNECT_SECONDS,
    "socket_timeout": ANSWER_SECONDS,
    "health_check_interval": 5,
    "max_retries": 0,
}
"""For kombu's transport."""

TRANSPORT = "tasks.redis_transport:Transport"
"""A name: the library is loaded by processes that have a control plane, and by no other."""


def url() -> str | None:
    """Where the control plane is: a command's `--broker=redis://…` before the setting; None: nowhere."""
    given = os.environ.get("CELERY_BROKER_URL", "")  # `--broker` becomes this
    if given.startswith(("redis://", "rediss://", "redis+socket://")):
        return given
    found = settings().control_plane_url
    return found.get_secret_value() or None if found else None


def tls(address: str) -> Any:
    """What kombu is to be told of TLS: a certificate is asked for, unless the URL's query says otherwise."""
    checks = address.startswith("rediss://") and "ssl_cert_reqs" not in address
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED} if checks else False


def connection(address: str) -> Connection:
    """A connection that is not made before its first use."""
    return Connection(
        address, transport=TRANSPORT, transport_options=OPTIONS, ssl=tls(address), connect_timeout=CONNECT_SECONDS
    )


def failures() -> tuple[type[Exception], ...]:
    """What a connection raises whose Redis fails."""
    from redis.exceptions import RedisError  # noqa: PLC0415 - 6 MB that a worker without Redis can do without

    return (RedisError, OperationalError, OSError)
