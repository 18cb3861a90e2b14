"""A consumer in a process of its own, which can be killed: kombu's channel, driven by kombu's loop as Celery does.

The test says what to do over a pipe and hears what was delivered. Nothing is acknowledged unless it says so. A
lost connection is made anew, as by Celery's consumer; each signs with an access key of its own.
"""

import atexit
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from typing import Any, Protocol
from unittest.mock import patch

from tests.transport.endpoint import Served, Watched, queue_url

PATIENCE_SECONDS = 20
SPACE = multiprocessing.get_context("forkserver")
SPACE.set_forkserver_preload(["tests.transport.preload"])


@dataclass(frozen=True)
class Delivery:
    """A message that a consumer holds."""

    key: str  # the access key of the connection that it came by
    queue: str
    tag: str  # the receipt handle
    name: str


@dataclass(frozen=True)
class Given:
    """What a consumer is told at its start."""

    transport: str
    url: str
    queues: tuple[str, ...]
    prefetch: int
    number: int
    predefined: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)

    def connection(self, key: str) -> Any:
        """A connection that signs with this access key."""
        from kombu.connection import Connection

        options: dict[str, Any] = {
            "region": "us-east-1",
            "is_secure": False,
            "wait_time_seconds": 20,
            "polling_interval": 0.02,
            "visibility_timeout": 30,
            "client-config": {"connect_timeout": 3, "read_timeout": 3, "retries": {"total_max_attempts": 1}},
        }
        if self.predefined:
            options["predefined_queues"] = {name: {"url": queue_url(self.url, name)} for name in self.queues}
        address = f"sqs://{key}:secret@{self.url.partition('://')[2]}"
        return Connection(address, transport=self.transport, transport_options=options | dict(self.options))


class _Child:
    """The consumer's side."""

    def __init__(self, given: Given, pipe: Pipe) -> None:
        from kombu.asynchronous import Hub, set_event_loop

        self.given, self.pipe = given, pipe
        self.hub = Hub()
        set_event_loop(self.hub)
        self.connections = 0
        self.going = True
        self.held: dict[str, Any] = {}
        self.producer_connection: Any = None

    @property
    def key(self) -> str:
        return f"C{self.given.number}x{self.connections}"

    def run(self) -> None:
        while self.going:
            connection = self.connect()
            errors = connection.connection_errors
            try:
                self.consume(connection)
            except errors as error:
                self.hub.reset()
                self.held.clear()
                with suppress(Exception):
                    connection.collect(socket_timeout=1)
                self.pipe.send(("lost", repr(error)))
            else:
                with suppress(Exception):  # kombu's own stumbles over messages whose visibility has ended
                    connection.close()
                self.pipe.send(("closed",))

    def connect(self) -> Any:
        self.connections += 1
        connection = self.given.connection(self.key)
        while True:
            try:
                return connection.ensure_connection(max_retries=1, timeout=1)
            except connection.connection_errors:
                time.sleep(0.05)

    def consume(self, connection: Any) -> None:
        from kombu.entity import Queue
        from kombu.messaging import Consumer

        channel = connection.channel()
        queues = [Queue(name, no_declare=self.given.predefined or None) for name in self.given.queues]
        self.consumer = Consumer(channel, queues, on_message=self.on_message, prefetch_count=self.given.prefetch)
        self.hub.add_reader(self.pipe.fileno(), self.on_command)
        self.consumer.consume()
        self.hub.propagate_errors = connection.connection_errors
        self.pipe.send(("consumes", self.key))
        loop, here = self.hub.create_loop(), self.connections
        while self.going and self.connections == here:
            try:
                next(loop)
            except StopIteration:
                loop = self.hub.create_loop()

    def on_message(self, message: Any) -> None:
        self.held[message.delivery_tag] = message
        queue = message.delivery_info["routing_key"]
        self.pipe.send(("got", Delivery(self.key, queue, message.delivery_tag, message.payload)))

    def on_command(self, *_: Any) -> None:
        while self.pipe.poll():
            name, *arguments = self.pipe.recv()
            try:
                said = getattr(self, f"do_{name}")(*arguments)
            except Exception as error:
                self.pipe.send(("failed", repr(error)))
                raise
            self.pipe.send(("done", said))

    def do_settle(self, what: str, tags: Sequence[str]) -> None:
        """`ack`, `reject` or `requeue` messages; those of a lost connection are gone with it."""
        for tag in tags:
            message = self.held.pop(tag, None)
            if message is not None:
                getattr(message, what)()

    def do_cancel(self, queue: str) -> None:
        self.consumer.cancel_by_queue(queue)

    def do_listen_again(self, queue: str) -> None:
        from kombu.entity import Queue

        self.consumer.add_queue(Queue(queue, no_declare=True))
        self.consumer.consume()

    def do_age(self) -> float:
        """Seconds since it last showed that it consumes."""
        from tasks.health import pulse

        return pulse().age

    def do_lose_receives(self) -> None:
        """Let no receive be answered any more, whatever connection it is of: a fault of our own, not of SQS."""
        from kombu.asynchronous.http.curl import CurlClient

        patch.object(CurlClient, "add_request", lambda _self, request: request).start()

    def do_close(self) -> None:
        from celery.worker import state

        state.should_stop = 0  # as a Celery worker that is told to stop
        self.going = False


def _main(given: Given, pipe: Pipe) -> None:
    _Child(given, pipe).run()
    atexit._run_exitfuncs()  # which multiprocessing's children leave out


class Watches(Protocol):
    """Who keeps what the endpoint saw."""

    @property
    def watched(self) -> Watched:
        """It."""


class Consumer:
    """The test's side: `deliveries` is all that it was ever given, `held` what it holds now."""

    def __init__(self, served: Watches, given: Given) -> None:
        self.served, self.given = served, given
        self.deliveries: list[Delivery] = []
        self.held: dict[str, Delivery] = {}
        self.key = ""
        self.losses: list[str] = []
        self.closed = False
        self.unanswered = 0  # commands that were posted
        self._pipe, theirs = SPACE.Pipe()
        self.process = SPACE.Process(target=_main, args=(given, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.until(lambda: self.key)

    def hear(self, seconds: float = 0.0) -> list[Any]:
        """Take in what it says, waiting so long for the first word; what it said to commands."""
        answers: list[Any] = []
        while wait([self._pipe], seconds):
            try:
                word, *rest = self._pipe.recv()
            except (EOFError, ConnectionResetError):
                if answers:
                    break  # its last words; that it ended is heard next
                self.process.join(5)
                raise Died(f"the consumer ended with {self.process.exitcode}") from None
            seconds = 0.0
            if not self._note(word, *rest):
                answers.append((word, *rest))
        return answers

    def _note(self, word: str, *rest: Any) -> bool:
        """Take in one word; whether it is no answer that somebody waits for."""
        if word == "got":
            self.deliveries.append(rest[0])
            self.held[rest[0].tag] = rest[0]
        elif word == "consumes":
            self.key = rest[0]
        elif word == "closed":
            self.closed = True
            self.held.clear()
        elif word == "lost":
            self.losses.append(rest[0])
            self.held.clear()
        elif self.unanswered:
            self.unanswered -= 1
        else:
            return False
        return True

    def until(self, happened: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
        """Listen until something is so."""
        give_up = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < give_up, "it never happened"
            self.hear(0.05)

    def do(self, *command: Any) -> Any:
        """Give a command and wait until it was carried out; what it said."""
        self._pipe.send(command)
        answers: list[Any] = []
        give_up = time.monotonic() + PATIENCE_SECONDS
        while not answers:
            assert time.monotonic() < give_up, f"{command} was not carried out"
            answers = self.hear(0.05)
        ((word, said),) = answers
        return (word, said) if word == "failed" else said

    def settle(self, what: str, tags: Sequence[str]) -> None:
        """End messages that it holds, `ack`, `reject` or `requeue`, and wait until it has."""
        self._let_go(what, tags)
        self.do("settle", what, tags)

    def post(self, what: str, tags: Sequence[str]) -> None:
        """End messages that it holds, and do not wait."""
        self._let_go(what, tags)
        self._pipe.send(("settle", what, tags))
        self.unanswered += 1

    def _let_go(self, what: str, tags: Sequence[str]) -> None:
        connections = self.served.watched.connections
        for tag in tags:
            delivery = self.held.pop(tag)
            if what != "requeue":
                self.served.watched.ended.add(tag)
            connections[delivery.key].back.add(tag)

    def close(self) -> None:
        """Have it end its connection in order, and itself."""
        self.do("close")
        with suppress(Died):
            self.until(lambda: self.closed)
        self.process.join(PATIENCE_SECONDS)
        self._pipe.close()

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.join(10)
        self._pipe.close()
        self.held.clear()


class Died(Exception):
    """A consumer's process ended by itself."""


@contextmanager
def consuming(
    served: Served, transport: str, queues: Sequence[str], *, prefetch: int, number: int = 1, **options: Any
) -> Iterator[Consumer]:
    """A consumer that is killed in the end."""
    made = Consumer(served, Given(transport, served.url, tuple(queues), prefetch, number, options=options))
    try:
        yield made
    finally:
        made.kill()
