"""kombu's SQS transport: messages by tens instead of one by one, and an endpoint that may fail.

- Deletes, releases and sends go in batches (`transport_delete`, `transport_end`, `transport_send`), and what is
  asked for counts against prefetch (`transport_receive`).
- With kombu 5.7 a 5xx or an unreachable endpoint hands an empty list to code that expects an answer, and a
  throttled receive raises a bare Exception: both end the worker. Here each is a lost connection, which Celery
  makes anew. When it does, it resets the event loop, which forgets itself, so that the new connection would never
  receive: it is kept here. What runs meanwhile goes on: the ledger's lease decides, not the connection.
- Celery connects anew at once, and to SQS that always works, since nothing is asked: so a worker whose endpoint is
  away would spin, and fill its log. Here it takes its time.
- A worker that stops leaves its receives open while its runs end, and reads them no more: what they still bring
  would be hidden from everybody for the visibility timeout. Here they are ended with the consumer.
"""

import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar

from botocore.config import Config
from botocore.exceptions import ClientError
from celery.worker import state
from kombu.asynchronous import Hub, get_event_loop, set_event_loop
from kombu.transport import SQS

from integrator.clock import boottime
from tasks.counted import count, count_delete
from tasks.health import pulse
from tasks.queues import new_client
from tasks.transport_delete import Deleter
from tasks.transport_end import Deleting
from tasks.transport_receive import Receiving
from tasks.transport_send import Sending

CONNECT_SECONDS = 2.0
"""How often a worker connects anew that has just done so, and how late it notices that SQS is back."""

AT_ONCE = 3
"""So many connections are made without a pause: a worker's first ones, and a loss that was none."""


class EndpointFailed(ConnectionError):
    """The SQS endpoint did not answer a receive as it should; the connection is made anew."""


def stops() -> bool:
    """Whether this process is a worker that was told to stop."""
    return any(told is not None and told is not False for told in (state.should_stop, state.should_terminate))


class Channel(Receiving, Deleting, Sending):
    """A channel whose calls are for many messages, and whose failed receives are lost connections."""

    deleter = Deleter(count_delete, stops)
    _loop: Hub | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        Channel._loop = get_event_loop() or Channel._loop
        set_event_loop(Channel._loop)
        super().__init__(*args, **kwargs)

    def beat(self) -> None:
        """It asks for messages, or rightly does not: the worker consumes."""
        pulse().beat()

    def _get_from_sqs(self, *args: Any, **kwargs: Any) -> Any:
        count("ReceiveMessage")
        return super()._get_from_sqs(*args, **kwargs)

    def asynsqs(self, queue: str | None = None) -> Any:
        """The asynchronous client, whose refusals are connection errors. They name the status, not the body."""
        client = super().asynsqs(queue)
        client._for_status = lambda response, _body: EndpointFailed(f"SQS answered {response.status}")
        return client

    def _new_boto_client(
        self,
        service: str,
        region: str,
        access_key_id: str | None,
        secret_access_key: str | None,
        session_token: str | None = None,
        config: Config | None = None,
    ) -> Any:
        """A client as kombu makes it, but of the process's one session."""
        given = Config(**(self.transport_options.get("client-config") or {}))
        return new_client(
            service=service,
            region_name=region,
            aws_access_key_id=access_key_id,
            aws_secret_access_key=secret_access_key,
            aws_session_token=session_token,
            use_ssl=True if self.is_secure is None else self.is_secure,
            endpoint_url=self.endpoint_url,
            config=given.merge(config) if config else given,
        )

    def basic_cancel(self, consumer_tag: str) -> Any:
        """Listen no more: what has arrived goes back, and what will not be begun, and nothing else arrives."""
        cancelled = super().basic_cancel(consumer_tag)  # type: ignore[no-untyped-call]
        if self.hub and not self._consumers:
            _hang_up(self.hub)
            if self.connection is not None:  # else it is closed, and its clients are gone with it
                self._predefined_queue_async_clients.clear()  # they hold what was closed
                self._asynsqs = None
                self._receives.clear()
                self.release_left()
        return cancelled

    def _on_messages_ready(self, queue: str, qname: str, messages: Any) -> int:
        if not isinstance(messages, Mapping):
            raise EndpointFailed("SQS does not answer")
        received: int = super()._on_messages_ready(queue, qname, messages)  # type: ignore[no-untyped-call]
        return received


def _hang_up(hub: Hub) -> None:
    """End the requests under way; the next one makes a new client."""
    client = vars(hub).pop("_current_http_client", None)
    if client is not None:
        client._timeout_check()  # takes what has arrived
        client._pop_from_hub()  # its numbers may soon be those of other files
        client.close()
        client._fds.clear()
        # Events and timers that the loop holds already still come to it, and would ask what is closed.
        client._on_event = client._process_pending_requests = lambda *_: None


class Transport(SQS.Transport):
    """The transport that celeryconfig names."""

    Channel = Channel
    connection_errors: Any = (*SQS.Transport.connection_errors, ClientError)

    _made: ClassVar[deque[float]] = deque(maxlen=AT_ONCE)

    def establish_connection(self) -> Any:
        """Connect. A worker's loop that does so anew, since SQS is away, is as alive as one that asks it."""
        if threading.current_thread() is threading.main_thread():  # where the loop is; others only publish
            pulse().beat()
            if Channel._loop is not None:
                self._take_time()
        return super().establish_connection()  # type: ignore[no-untyped-call]

    def _take_time(self) -> None:
        if len(self._made) == AT_ONCE:
            due = min(self._made[0] + AT_ONCE * CONNECT_SECONDS, self._made[-1] + CONNECT_SECONDS)
            time.sleep(max(due - boottime(), 0))
        self._made.append(boottime())
