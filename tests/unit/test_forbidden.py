"""Nothing forbidden is in our code; and each forbidden thing would be seen."""

from pathlib import Path

import pytest

from tests.forbidden import PUBLISHING, RULES, broken

ROOT = Path(__file__).parents[2]
FILES = sorted(
    str(path.relative_to(ROOT))
    for path in (
        ROOT / "celeryconfig.py",
        *(one for part in ("integrator", "tasks", "web") for one in (ROOT / part).rglob("*.py")),
    )
)

FORBIDDEN = [
    ("sent_for_later", "x.py", "task.signature(args, countdown=3)"),
    ("sent_for_later", "x.py", "options = {'eta': soon}"),
    ("sent_for_later", "x.py", "@app.task(autoretry_for=(Exception,))\ndef task(): ..."),
    ("sent_for_later", "x.py", "class Base(Task):\n    autoretry_for = (Exception,)"),
    ("sent_for_later", "x.py", "task.autoretry_for = ()"),
    ("sent_for_later", "x.py", "queue(DelaySeconds=1)"),
    ("sent_for_later", "x.py", "properties = {'DelaySeconds': 1}"),
    ("delayed_message", "x.py", "celery.send_task('t', delay_seconds=5)"),
    ("delayed_message", "x.py", "producer.publish({}, delay_seconds=5)"),
    ("delayed_message", PUBLISHING, "options = {'delay_seconds': 5}"),
    ("celery_retry", "x.py", "self.retry()"),
    ("celery_retry", "x.py", "raise task.retry(exc=error)"),
    ("celery_retry", "x.py", "self.task.retry()"),
    ("sent_elsewhere", "tasks/orders.py", "sync_order.apply_async(('acme', 1))"),
    ("sent_elsewhere", "web/receiver.py", "sync_order.delay('acme', 1)"),
    ("sent_elsewhere", "integrator/dispatch.py", "app.send_task('t')"),
    ("sent_elsewhere", "tasks/queues.py", "client().send_message(QueueUrl=url)"),
    ("payload_in_message", PUBLISHING, "c.send_task(t, args=(one.tenant, one.body), argsrepr='')"),
    ("payload_in_message", PUBLISHING, "c.send_task(t, args=(one.tenant, dumps(one)), argsrepr='')"),
    ("payload_in_message", PUBLISHING, "c.send_task(t, args=(one.tenant,), argsrepr='', kwargs={'a': 1})"),
    ("payload_in_message", PUBLISHING, "c.send_task(t, args=(one.tenant,), argsrepr='', headers={'a': 1})"),
    ("payload_in_message", PUBLISHING, "c.send_task(t, args=(one.tenant,), argsrepr='', **more)"),
    ("payload_in_message", PUBLISHING, "c.send_task(t, args=(one.tenant, one.sync_id))"),
    ("payload_in_message", PUBLISHING, "c.send_task(t, [order])"),
    ("time_without_zone", "x.py", "datetime.now()"),
    ("time_without_zone", "x.py", "dt.datetime.now()"),
    ("time_without_zone", "x.py", "datetime.utcnow()"),
    ("time_without_zone", "x.py", "datetime.fromtimestamp(0)"),
    ("time_without_zone", "x.py", "date.today()"),
    ("time_without_zone", "x.py", "datetime(2026, 3, 1)"),
    ("time_without_zone", "x.py", "datetime.strptime(text, '%Y')"),
    ("time_without_zone", "x.py", "time.replace(tzinfo=None)"),
    ("float_for_money", "integrator/documents/money.py", "cent = 0.01"),
    ("float_for_money", "integrator/shops/x_order.py", "float(value)"),
    ("float_for_money", "integrator/documents/sums.py", "rate: float"),
    ("float_for_money", "integrator/documents/sums.py", "def add(one: float | None): ..."),
    ("float_for_money", "integrator/sync/orders.py", "float(order.total.amount)"),
    ("float_for_money", "web/x.py", "def show(amount: float): ..."),
    ("float_for_money", "integrator/shops/payload.py", "json.loads(body)"),
    ("float_for_money", "integrator/shops/payload.py", "orjson.loads(body)"),
    ("call_without_deadline", "integrator/erps/x.py", "import requests"),
    ("call_without_deadline", "integrator/erps/x.py", "from urllib3.util import Retry"),
    ("call_without_deadline", "integrator/erps/x.py", "from urllib import request"),
    ("call_without_deadline", "web/x.py", "import http.client"),
    ("call_without_deadline", "tasks/queues.py", "boto3.client('sqs')"),
]

ALLOWED = [
    ("tasks/outcome.py", "transitions.retry(c, 1, 2, failure, burns='attempts', delay_seconds=3)"),
    ("tasks/queues.py", "found.get('DelaySeconds', 0)"),
    (PUBLISHING, "c.send_task(t, args=(one.tenant, one.sync_id), task_id='1:1', argsrepr='(…)')"),
    ("x.py", "datetime.now(UTC)"),
    ("x.py", "datetime(1970, 1, 1, tzinfo=UTC)"),
    ("x.py", "datetime.fromtimestamp(0, tz=UTC).replace(tzinfo=UTC)"),
    ("x.py", "time.astimezone(UTC).replace(tzinfo=None)"),
    ("x.py", "from http import HTTPStatus"),
    ("x.py", "from urllib.parse import urlsplit"),
    ("integrator/http.py", "import requests"),
    ("integrator/documents/money.py", "isinstance(value, float)"),
    ("integrator/shops/payload.py", "json.loads(body, parse_float=Decimal)"),
    ("integrator/retry.py", "wait: float = 1.5"),
]


@pytest.mark.parametrize("path", FILES)
def test_given_our_code_when_read_then_nothing_forbidden_is_in_it(path: str) -> None:
    assert list(broken(path, (ROOT / path).read_text())) == []


@pytest.mark.parametrize(("rule", "path", "source"), FORBIDDEN)
def test_given_something_forbidden_when_read_then_it_is_seen(rule: str, path: str, source: str) -> None:
    assert rule in {found.rpartition(" ")[2] for found in broken(path, source)}


@pytest.mark.parametrize(("path", "source"), ALLOWED)
def test_given_something_that_only_looks_like_it_when_read_then_it_passes(path: str, source: str) -> None:
    assert list(broken(path, source)) == []


def test_given_the_rules_when_counted_then_each_has_been_shown_to_see_something() -> None:
    assert {rule for rule, _, _ in FORBIDDEN} == RULES.keys()
    assert {"celeryconfig.py", PUBLISHING, "integrator/http.py", "web/receiver.py"} <= set(FILES)
