"""What operators are shown of tasks and settings: no arguments, no payloads, no passwords."""

import re
from collections.abc import Mapping
from typing import Any

ARGUMENTS = {"args": "(…)", "kwargs": "{}", "result": "…", "traceback": ""}
"""Fields of a task's event or description that may hold what a request held, and what stands for them."""

_WHERE = ("exchange", "routing_key", "redelivered")
"""What is shown of where a message came from; SQS puts the whole message there."""

_PASSWORD = re.compile(r"(?<=://)[^\s/@]+(?=@)")


def without_arguments(fields: Mapping[str, Any]) -> dict[str, Any]:
    """An event's fields without what the task was given and made."""
    return {name: value if value is None else ARGUMENTS.get(name, value) for name, value in fields.items()}


def without_secrets(answer: Any) -> Any:
    """A command's answer, however deep: tasks without arguments and messages, URLs without user and password."""
    if isinstance(answer, str):
        return _PASSWORD.sub("…", answer)
    if isinstance(answer, Mapping):
        fields = without_arguments(answer) if "kwargs" in answer else answer
        return {name: _field(name, value) for name, value in fields.items()}
    if isinstance(answer, list | tuple | set | frozenset):
        return [without_secrets(one) for one in answer]
    return answer


def _field(name: Any, value: Any) -> Any:
    if name == "delivery_info" and isinstance(value, Mapping):
        value = {key: value[key] for key in _WHERE if key in value}
    return without_secrets(value)
