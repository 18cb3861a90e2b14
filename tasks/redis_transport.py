"""kombu's Redis transport, for the control plane, without retries.

redis-py repeats a failed command ten times by itself, so that a Redis that answers nothing would hold a caller for
a quarter of a minute where a second was asked for. Here whoever calls decides whether to call again.
"""

from typing import Any

from kombu.transport import redis
from redis.backoff import NoBackoff
from redis.retry import Retry


class Channel(redis.Channel):
    """Kombu's channel, whose commands are tried once."""

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        given: dict[str, Any] = super()._connparams(asynchronous)
        return {**given, "retry": Retry(NoBackoff(), 0)}


class Transport(redis.Transport):
    """The transport of the control plane."""

    Channel = Channel
