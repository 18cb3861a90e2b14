"""A worker's ear for remote commands: a thread that receives and answers, and never carries out.

A command runs on the worker's loop, between two messages, where Celery's own run: consumers and counters belong to
that loop. The thread answers, so that the loop never waits for Redis.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from celery.utils.collections import AttributeDict
from celery.utils.functional import pass1
from kombu.connection import Connection

from integrator.logs import get_logger
from tasks import redis_link

log = get_logger(__name__)

LOOP_SECONDS = 5
"""How long a command may wait for the worker's loop, which stands still while SQS is being connected anew."""

LOOK_SECONDS = 1.0
"""How often the thread sees that it is to end."""

PING_SECONDS = 5.0
"""How often an idle connection is asked whether it is alive."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 5.0
"""The waits before Redis is tried again double from the first to the last."""


class Listener(threading.Thread):
    """Receives commands, has the worker's loop carry them out, and answers. Connects anew until told to stop."""

    def __init__(self, consumer: Any, address: str) -> None:
        super().__init__(name="control-plane", daemon=True)
        self._consumer, self._address = consumer, address
        self._stopping = threading.Event()
        self._up = True  # so that the first failure is told
        self._pause = FIRST_PAUSE_SECONDS
        self._node = self._make_node()

    def _make_node(self) -> Any:
        from celery.worker.control import Panel  # noqa: PLC0415 - only a worker needs it

        c = self._consumer
        tset = pass1 if c.controller.use_eventloop else set
        state = AttributeDict(app=c.app, hostname=c.hostname, consumer=c, tset=tset)
        node = c.app.control.mailbox.Node(str(c.hostname), handlers=Panel.data, state=state)
        node.run = self._on_loop
        return node

    def stop(self) -> None:
        """End within a moment, or with the process."""
        self._stopping.set()
        self.join(LOOK_SECONDS + 1)

    def run(self) -> None:
        """Listen, whatever Redis does."""
        while not self._stopping.is_set():
            try:
                with redis_link.connection(self._address) as connection:
                    self._listen(connection)
            except Exception as error:  # noqa: BLE001 - whatever Redis does, the worker's work goes on
                self._tell(up=False, error=type(error).__name__)
                self._stopping.wait(self._pause)
                self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    def _tell(self, *, up: bool, **more: str) -> None:
        if up is not self._up:
            log.info("control_plane_back" if up else "control_plane_away", **more)
        self._up = up

    def _listen(self, connection: Connection) -> None:
        channel = self._node.channel = connection.channel()
        self._node.listen(callback=self._receive)
        self._pause = FIRST_PAUSE_SECONDS
        self._tell(up=True)
        pinged = time.monotonic()
        while not self._stopping.is_set():
            try:
                connection.drain_events(timeout=LOOK_SECONDS)
            except TimeoutError:
                if time.monotonic() - pinged > PING_SECONDS:
                    channel.client.ping()
                    connection.transport.cycle.maybe_check_subclient_health()
                    pinged = time.monotonic()

    def _receive(self, body: dict[str, Any], message: Any) -> None:
        self._consumer.app.clock.forward()
        self._node.handle_message(body, message)

    def _on_loop(self, command: Callable[[], Any]) -> Any:
        """Carry a command out on the worker's loop. Raises what it does, and TimeoutError when it was not run."""
        done: Future[Any] = Future()

        def carry_out() -> None:
            if done.set_running_or_notify_cancel():
                try:
                    done.set_result(command())
                except Exception as error:  # noqa: BLE001 - the answer says so
                    done.set_exception(error)

        self._consumer.call_soon(carry_out)
        try:
            return done.result(LOOP_SECONDS)
        except TimeoutError:
            if done.cancel():
                raise TimeoutError("the worker connects to SQS anew; nothing was done") from None
            return done.result(LOOP_SECONDS)
