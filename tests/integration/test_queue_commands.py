"""`celery -A tasks queues …` on the SQS endpoint: counts, dead letters that are put back, and refusals."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from click import Command
from click.testing import CliRunner, Result
from sqlalchemy import update

from integrator.clock import after
from integrator.config import settings
from integrator.ledger.engine import Ledger
from integrator.ledger.schema import syncs
from tasks import queue_commands, queues
from tasks.publishing import publisher
from tasks.queues import QUEUES
from tests.support import deliver, delivery, make_tenant, order
from tests.workers import QUEUE, celery_for, control, messages, opened, served, sqs

DEAD = f"{QUEUE}-dlq"
Run = Callable[..., Result]


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    with served(tmp_path, "sandbox.sqs", f"--queue={QUEUE}:0:1") as url:
        yield url


@pytest.fixture
def run(sqlite_ledger: Ledger, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run a command on this ledger and endpoint."""
    monkeypatch.setenv("INTEGRATOR_LEDGER_URL", str(sqlite_ledger.url))
    monkeypatch.setenv("INTEGRATOR_SQS_ENDPOINT_URL", endpoint)
    settings.cache_clear()
    queues.client.cache_clear()

    def invoke(command: Command, *arguments: str) -> Result:
        return CliRunner().invoke(command, arguments)

    yield invoke
    monkeypatch.undo()
    settings.cache_clear()
    queues.client.cache_clear()


def url(endpoint: str, queue: str) -> str:
    return f"{endpoint}/000000000000/{queue}"


def die(endpoint: str, count: int) -> None:
    """Put real bells into the dead-letter queue, the way that they get there: received once too often."""
    from tests.integration.test_celery_on_sqs import rung

    app = celery_for(endpoint)
    assert publisher(app)(rung(count)) == []
    app.close()
    client, received = sqs(endpoint), 0
    while received < count:
        received += len(messages(endpoint))
    assert not client.receive_message(QueueUrl=url(endpoint, QUEUE)).get("Messages")
    shown: dict[str, Any] = client.get_queue_attributes(QueueUrl=url(endpoint, DEAD), AttributeNames=["All"])
    assert shown["Attributes"]["ApproximateNumberOfMessages"] == str(count)


def listed(run: Run) -> dict[str, Any]:
    (row,) = orjson.loads(run(queue_commands.list_queues, "--json").stdout)
    assert isinstance(row, dict)
    return row


def test_given_bells_and_dead_letters_when_listed_then_all_are_counted(
    run: Run, endpoint: str, sqlite_ledger: Ledger
) -> None:
    said = run(queue_commands.list_queues)
    none = "orders: 0 visible, 0 in flight, 0 delayed, 0 dead-lettered; the oldest due sync waits for 0 s\n"
    assert (said.exit_code, said.stdout) == (0, none)
    die(endpoint, 3)
    client = sqs(endpoint)
    for delay in (0, 0, 60):
        client.send_message(QueueUrl=url(endpoint, QUEUE), MessageBody="x", DelaySeconds=delay)
    client.receive_message(QueueUrl=url(endpoint, QUEUE), VisibilityTimeout=60)
    deliver(sqlite_ledger, delivery(make_tenant(sqlite_ledger), order()))
    with sqlite_ledger.write() as connection:
        connection.execute(update(syncs).values(due_at=after(-100)))
    row = listed(run)
    oldest = row.pop("oldest_due_seconds")
    assert row == {"queue": "orders", "visible": 1, "in_flight": 1, "delayed": 1, "dead_lettered": 3}
    assert 100 <= oldest < 200


def test_given_dead_letters_when_redriven_then_each_is_back_once_as_it_was(run: Run, endpoint: str) -> None:
    die(endpoint, 23)
    dry = run(queue_commands.redrive, "orders", "--dry-run")
    assert dry.stdout == "23 messages would go back into orders\n"
    assert (listed(run)["visible"], listed(run)["dead_lettered"]) == (0, 23)
    done = run(queue_commands.redrive, "orders")
    assert (done.exit_code, done.stdout) == (0, "23 messages go back into orders\n")
    assert (listed(run)["visible"], listed(run)["dead_lettered"]) == (23, 0)
    assert run(queue_commands.redrive, "orders").stdout == "0 messages go back into orders\n"
    found = [message for _ in range(4) for message in messages(endpoint)]
    opened_ = [opened(message) for message in found]
    assert sorted(envelope["headers"]["id"] for envelope, _ in opened_) == sorted(f"{n}:3" for n in range(1, 24))
    assert {message["Attributes"]["MessageGroupId"] for message in found} == {"acme"}


def test_given_dead_letters_in_somebodys_hands_when_redriven_then_that_is_said(run: Run, endpoint: str) -> None:
    die(endpoint, 2)
    sqs(endpoint).receive_message(QueueUrl=url(endpoint, DEAD), VisibilityTimeout=60)
    said = run(queue_commands.redrive, "orders").stdout
    assert said.startswith("1 message goes back into orders\n")
    assert "1 more are being looked at by somebody" in said
    assert listed(run)["dead_lettered"] == 1


@pytest.mark.parametrize("fault", [{"unavailable": "503"}, {"throttling": 1.0}])
@pytest.mark.parametrize("command", [["list"], ["redrive", "orders"]])
def test_given_an_endpoint_that_fails_when_commanded_then_one_sentence_and_nothing_is_lost(
    run: Run, endpoint: str, command: list[str], fault: dict[str, Any]
) -> None:
    die(endpoint, 2)
    control(endpoint, **fault)
    refused = run(queue_commands.queues_group, *command)
    assert refused.exit_code == 1
    assert len(refused.output.splitlines()) == 1
    assert "can't be used" in refused.output
    control(endpoint, unavailable=False, throttling=0)
    assert listed(run)["dead_lettered"] == 2


def test_given_a_queue_that_is_not_ours_when_redriven_then_ours_are_named(run: Run) -> None:
    refused = run(queue_commands.redrive, "rumours")
    assert refused.exit_code == 2
    assert all(queue.name in refused.output for queue in QUEUES)
