"""Put on PYTHONPATH, this sets a Python process's own clock to SHIFTED_SECONDS beside the machine's.

It stands in for a machine whose clock is wrong: `time.time`, `time.time_ns` and `datetime`'s now and today are
shifted; clocks that only count (monotonic, boot time) run as ever, as they do there.
"""

import datetime
import os
import time
from typing import Any

SECONDS = float(os.environ["SHIFTED_SECONDS"])

_time, _time_ns, _datetime = time.time, time.time_ns, datetime.datetime


class _Kind(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _datetime)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, _datetime)


class Shifted(_datetime, metaclass=_Kind):  # type: ignore[valid-type, misc]
    """`datetime` on the shifted clock. All its results are of the real class."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return _datetime(*args, **kwargs)

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return _datetime.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls) -> Any:
        return _datetime.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)

    @classmethod
    def today(cls) -> Any:
        return cls.now()


for _name in ("fromtimestamp", "utcfromtimestamp", "fromisoformat", "strptime", "combine", "fromordinal"):
    setattr(Shifted, _name, getattr(_datetime, _name))

time.time = lambda: _time() + SECONDS
time.time_ns = lambda: _time_ns() + int(SECONDS * 1e9)
datetime.datetime = Shifted  # type: ignore[misc]
