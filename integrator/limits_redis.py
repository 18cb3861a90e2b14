"""The limiter's buckets in Redis: one script, asked with a short deadline, and left alone while Redis fails."""

import threading
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from integrator.clock import boottime
from integrator.ledger.limits import HANDOVER_US, LONGEST_US, Drawn, us
from integrator.limits import Asked
from integrator.logs import get_logger

log = get_logger(__name__)

ANSWER_SECONDS = 0.1
"""How long Redis may take to answer, or to be connected to, before the ledger is asked instead."""

PAUSE_SECONDS = (1.0, 10.0)
"""The first and the longest pause before a Redis that failed is asked again, by one call."""

_REFUND = """
if redis.call('HGET', KEYS[1], 'ends') == ARGV[1] then redis.call('HINCRBY', KEYS[1], 'credit:' .. ARGV[2], 1) end
"""


class SharedBuckets:
    """The buckets in Redis, each a hash. A Redis that fails or hangs costs one call 0.1 s, and a pause."""

    def __init__(self, url: str, offset_seconds: float) -> None:
        self._client = Redis.from_url(
            url.replace("redis+socket://", "unix://", 1),
            retry=Retry(NoBackoff(), 0),
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=ANSWER_SECONDS,
        )
        self._offset_us = round(offset_seconds * 1_000_000)
        self._script = self._client.register_script(Path(__file__).with_name("limits.lua").read_text("utf-8"))
        self._refund = self._client.register_script(_REFUND)
        self._lock = threading.Lock()
        self.lost = False
        self._pause_seconds = 0.0
        self._ask_again_at = 0.0

    def answers(self) -> bool:
        """Whether it may be asked. While it is lost, one call now and then tries it."""
        if not self.lost:
            return True
        with self._lock:
            if boottime() < self._ask_again_at:
                return False
            self._ask_again_at = boottime() + self._pause_seconds
        try:
            self._client.ping()
        except RedisError as error:
            self.lose(type(error).__name__)
        else:
            self.lost = False
            log.info("limits_with_redis_again")
        return not self.lost

    def take(self, asked: Asked, drawn: Drawn | None) -> list[int] | None:
        """Ask for a place, with a block of the day's calls if one was drawn. The script's answer; None: lost."""
        plan = asked.seen.plan
        block = (drawn.count, us(drawn.day.begins_at), us(drawn.day.ends_at)) if drawn else (0, 0, 0)
        arguments = (
            self._offset_us,
            asked.rate.interval_us,
            asked.rate.tolerance_us,
            LONGEST_US,
            HANDOVER_US,
            asked.seen.episode_ms,
            plan.version if plan else 0,
            asked.purpose.value if plan else "",
            *block,
        )
        try:
            answer: list[int] = self._script(keys=[_hash(asked.key)], args=arguments)
        except RedisError as error:
            self.lose(type(error).__name__)
            return None
        self._pause_seconds = 0.0
        return answer

    def give_back(self, asked: Asked, ends_us: int) -> None:
        """A call never left. When Redis can't be told, the day counts it."""
        if asked.seen.plan is None or self.lost:
            return
        try:
            self._refund(keys=[_hash(asked.key)], args=(ends_us, asked.purpose.value))
        except RedisError as error:
            self.lose(type(error).__name__)

    def lose(self, why: str) -> None:
        """Do without it for a while."""
        first, longest = PAUSE_SECONDS
        with self._lock:
            self.lost = True
            self._pause_seconds = min(self._pause_seconds * 2, longest) or first
            self._ask_again_at = boottime() + self._pause_seconds
        log.warning("limits_without_redis", reason=why, seconds=self._pause_seconds)
        self._client.connection_pool.disconnect(inuse_connections=False)


def _hash(key: str) -> str:
    return f"integrator-limit:{{{key}}}"
