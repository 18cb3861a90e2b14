"""Events and remote control over Redis, while tasks stay on SQS: `celery -A tasks inspect|control|status|events`.

Celery's SQS transport has neither. Here the app gets an events class and a control class that speak with Redis,
and each worker a step that listens there in a thread of its own. It fails open: without Redis, or with one that
hangs or comes back, workers start, work at full speed and stop as they would otherwise.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import click
from celery import bootsteps
from celery.app.control import Control as CeleryControl
from celery.app.control import Mailbox as CeleryMailbox
from celery.app.events import Events as CeleryEvents
from celery.events.dispatcher import EventDispatcher
from celery.events.receiver import EventReceiver
from kombu.connection import Connection
from kombu.exceptions import OperationalError
from kombu.messaging import Producer
from kombu.pidbox import Node

from integrator.config import settings
from tasks import redis_link
from tasks.control_listener import Listener
from tasks.event_queue import Event, EventQueue
from tasks.shown import without_arguments, without_secrets

FLUSH_SECONDS = 2
"""How long a worker that ends may take to send its last events."""

RECONNECT_SECONDS = 1
"""How long a receiver of events waits before it connects anew."""


class NoControlPlane(click.ClickException, OperationalError):
    """There is none, or it does not answer. Its text is for people: the command line prints it as it is."""

    exit_code = 69  # Celery's for "unavailable"


def _address() -> str:
    found = redis_link.url()
    if found is None:
        raise NoControlPlane(
            "There is no control plane: INTEGRATOR_CONTROL_PLANE_URL is not set. Name the workers' Redis."
        )
    return found


@contextmanager
def _told(link: Connection) -> Iterator[None]:
    """Say in one sentence that Redis does not answer."""
    try:
        yield
    except redis_link.failures() as error:
        where = f"{link.hostname}:{link.port}" if link.port else link.hostname
        raise NoControlPlane(
            f"Redis at {where} does not answer ({str(error).rstrip('.')}). The workers work without it. "
            "Start it, or check INTEGRATOR_CONTROL_PLANE_URL."
        ) from error


@cache
def event_queue() -> EventQueue:
    """This process's events on their way to Redis."""
    return EventQueue(lambda: redis_link.connection(_address()), settings().control_plane_events)


# Events


class Dispatcher(EventDispatcher):
    """Hands events to the queue, without arguments, results and tracebacks. Mute where there is no Redis."""

    def __init__(
        self, connection: Any = None, hostname: str | None = None, enabled: bool = True, **given: Any
    ) -> None:
        address = redis_link.url()
        self._mute = address is None
        given = {name: given[name] for name in ("app", "groups", "serializer") if name in given}
        given["groups"] = given.get("groups") or ("task", "worker")  # an empty set would say: whatever
        link = redis_link.connection(address) if address else connection
        super().__init__(link, hostname, enabled and not self._mute, **given)
        if not self._mute:
            self.connection = None  # the worker's loop would connect it, to send heartbeats: that is ours to do

    def enable(self) -> None:
        """Let events through, if there is somewhere to send them."""
        if not self._mute:
            with self.mutex:
                self._closed, self.enabled, self.producer = False, True, event_queue()
            for started in self.on_enabled:
                started()

    def _prepare_event(self, type: str, fields: dict[str, Any], **given: Any) -> dict[str, Any]:  # noqa: A002
        made: dict[str, Any] = super()._prepare_event(type, without_arguments(fields), **given)
        return made

    def _publish(self, event: dict[str, Any], producer: Any, routing_key: str, **_given: Any) -> None:
        if producer is not None and not self._mute:
            event_queue().put(Event(event, self.exchange, routing_key, self.serializer, self.headers))


class Receiver(EventReceiver):
    """Receives from Redis, whatever connection it is given.

    What Redis throws becomes a ConnectionError, after which `celery events` connects anew; but NoControlPlane
    where it never answered this process.
    """

    _reached = False

    def __init__(self, _connection: Any, *args: Any, **given: Any) -> None:
        link = redis_link.connection(_address())
        with _as_connection_errors() if Receiver._reached else _told(link):
            super().__init__(link.channel(), *args, **given)
        Receiver._reached = True

    def capture(self, *args: Any, **given: Any) -> None:
        """Receive until interrupted. Raises ConnectionError."""
        with _as_connection_errors():
            super().capture(*args, **given)


@contextmanager
def _as_connection_errors() -> Iterator[None]:
    """`celery events` connects anew after a ConnectionError, at once: so this waits a little."""
    try:
        yield
    except redis_link.failures() as error:
        if isinstance(error, NoControlPlane):
            raise
        time.sleep(RECONNECT_SECONDS)
        raise ConnectionError(str(error)) from error


class Events(CeleryEvents):
    """The app's events."""

    dispatcher_cls = "tasks.control_plane:Dispatcher"
    receiver_cls = "tasks.control_plane:Receiver"


# Control


class ListeningNode(Node):
    """A worker's mailbox: received in the thread, carried out on the worker's loop, answered by the thread."""

    run: Callable[[Callable[[], Any]], Any]

    def handle(self, method: str, arguments: dict[str, Any] | None = None) -> Any:
        """The command's answer, without arguments of tasks and without secrets."""
        return without_secrets(self.run(partial(super().handle, method, arguments)))


class Mailbox(CeleryMailbox):
    """Publishes once, on the connection that it was given, and not on the app's way to SQS."""

    node_cls = ListeningNode

    @contextmanager
    def producer_or_acquire(self, producer: Any = None, channel: Any = None) -> Iterator[Any]:
        """A producer on the channel."""
        yield _Once(producer or Producer(channel, auto_declare=False))


class _Once:
    """A producer that does not repeat: kombu's mailbox asks for retries without an end."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    def publish(self, *args: Any, **given: Any) -> Any:
        return self._producer.publish(*args, **{**given, "retry": False})


class Control(CeleryControl):
    """Sends commands over Redis."""

    Mailbox = Mailbox

    def broadcast(self, command: str, *args: Any, connection: Connection | None = None, **given: Any) -> Any:
        """Send a command to all workers or some. Raises NoControlPlane."""
        if connection is not None:
            return super().broadcast(command, *args, connection=connection, **given)
        with redis_link.connection(_address()) as own, _told(own):
            answers = super().broadcast(command, *args, connection=own, **given)
        if given.get("callback") is not None:  # a person's command has shown them by now
            _end_if_refused(answers)
        return answers


def _end_if_refused(answers: list[dict[str, Any]] | None) -> None:
    """End the command line with status 1 when a worker has not done it, as it said: Celery's own would be 0."""
    said = [answer for one in answers or () for answer in one.values()]
    refused = sum(isinstance(answer, dict) and "error" in answer for answer in said)
    if refused and click.get_current_context(silent=True):
        raise click.ClickException(f"{refused} of {len(said)} workers did not do it.")


# The worker's side


class ControlPlane(bootsteps.StartStopStep):
    """The step of a worker that listens for commands, from the first connection to SQS until the worker ends."""

    label = "Control plane"
    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **given: Any) -> None:
        super().__init__(consumer, **given)
        self._listener: Listener | None = None

    def include_if(self, _consumer: Any) -> bool:
        """Only where there is a control plane."""
        return redis_link.url() is not None

    def start(self, consumer: Any) -> None:
        """Begin to listen. A new connection to SQS changes nothing."""
        if self._listener is None:
            from tasks import remote_commands  # noqa: F401, PLC0415 - the web process needs no worker's commands

            self._listener = Listener(consumer, _address())
            self._listener.start()

    def stop(self, _consumer: Any) -> None:
        """SQS is lost or the worker drains: go on listening."""

    def shutdown(self, _consumer: Any) -> None:
        """End with the worker."""
        if self._listener:
            self._listener.stop()
