"""What operators are shown: no arguments, no messages, no passwords."""

from typing import Any

import pytest

from tasks.shown import without_arguments, without_secrets

REQUEST = {
    "id": "1:2",
    "name": "tasks.orders.sync_order",
    "args": ["acme", 1],
    "kwargs": {"email": "ana@example.com"},
    "delivery_info": {"exchange": "", "routing_key": "q", "sqs_message": {"Body": "x", "ReceiptHandle": "y"}},
}
SHOWN = {**REQUEST, "args": "(…)", "kwargs": "{}", "delivery_info": {"exchange": "", "routing_key": "q"}}


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ([REQUEST], [SHOWN]),
        ([{"eta": None, "request": REQUEST}], [{"eta": None, "request": SHOWN}]),
        ({"1:2": ("active", REQUEST)}, {"1:2": ["active", SHOWN]}),
        ({"ok": "pong"}, {"ok": "pong"}),
        ({"error": "ValueError('x')"}, {"error": "ValueError('x')"}),
        ({"broker_url": "redis://:pw@h:1/0"}, {"broker_url": "redis://…@h:1/0"}),
        (
            {"a": [{"url": "https://u:p@sqs/1/q and http://x@y"}]},
            {"a": [{"url": "https://…@sqs/1/q and http://…@y"}]},
        ),
        (["celery@host", 3, None, 1.5, True], ["celery@host", 3, None, 1.5, True]),
        ({"args": "not of a task"}, {"args": "not of a task"}),
    ],
)
def test_given_an_answer_when_shown_then_nothing_private_is_in_it(answer: Any, shown: Any) -> None:
    assert without_secrets(answer) == shown


def test_given_an_event_when_shown_then_no_argument_result_or_traceback() -> None:
    private = {"args": "('a',)", "kwargs": "{'b': 1}", "result": "'c'", "traceback": "d"}
    assert without_arguments({"uuid": "1", **private, "runtime": 1.0, "eta": None}) == {
        "uuid": "1",
        "args": "(…)",
        "kwargs": "{}",
        "result": "…",
        "traceback": "",
        "runtime": 1.0,
        "eta": None,
    }
