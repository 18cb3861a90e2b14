"""Where a remote command is carried out: on the worker's loop, and nowhere else (DESIGN §8)."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker.control import Panel

from tasks import control_listener
from tasks.app import app
from tasks.control_listener import Listener

Command = Callable[[], None]


@pytest.fixture
def loop() -> "Queue[Command]":
    """What the worker's loop has been asked to run; a test runs it as the loop would."""
    return Queue()


@pytest.fixture
def listener(loop: "Queue[Command]") -> Listener:
    consumer = SimpleNamespace(
        app=app, hostname="celery@here", controller=SimpleNamespace(use_eventloop=True), call_soon=loop.put
    )
    return Listener(consumer, "redis://127.0.0.1:9/0")


@pytest.fixture
def ran_in(monkeypatch: pytest.MonkeyPatch) -> "Queue[threading.Thread]":
    """The threads in which the command `where` was carried out."""
    threads: Queue[threading.Thread] = Queue()

    def where(_state: Any) -> str:
        threads.put(threading.current_thread())
        return "done"

    monkeypatch.setitem(Panel.data, "where", where)
    return threads


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    """The thread that listens."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


def test_given_a_command_when_it_is_received_then_the_loop_carries_it_out(
    listener: Listener, loop: "Queue[Command]", ran_in: "Queue[threading.Thread]", thread: ThreadPoolExecutor
) -> None:
    answer = thread.submit(listener._node.handle, "where")
    loop.get(timeout=10)()
    assert answer.result(10) == "done"
    assert ran_in.get_nowait() is threading.current_thread()


def test_given_a_loop_that_stands_still_when_a_command_waited_too_long_then_it_is_not_carried_out_later(
    listener: Listener,
    loop: "Queue[Command]",
    ran_in: "Queue[threading.Thread]",
    thread: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(control_listener, "LOOP_SECONDS", 0.05)
    answer = thread.submit(listener._node.handle, "where")
    with pytest.raises(TimeoutError, match="nothing was done"):
        answer.result(10)
    loop.get(timeout=10)()
    assert ran_in.empty()
