"""The sandbox's SQS endpoint in a thread of the test, with a clock that can be moved, and with eyes.

Each connection of a consumer signs with an access key of its own (`tests.transport.consumer`), so that the
endpoint knows whose request it is.
"""

import asyncio
import base64
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson

from sandbox.sqs import Endpoint, Faults, Request
from sandbox.sqs_actions import Json
from sandbox.sqs_queue import ACCOUNT, Queue, SqsError

LOOKS = 20
"""How often the loop looks at its sockets until it has seen that a client came, asked, and hung up: one each."""


@dataclass
class Connection:
    """What one connection of a consumer asked and was given; `back` are the handles that it holds no more."""

    waiting: list[Request] = field(default_factory=list)
    asked: dict[int, int] = field(default_factory=dict)  # by the id of a waiting request: messages at most
    waits: dict[int, int] = field(default_factory=dict)  # by the same: seconds that it waits at most
    given: set[str] = field(default_factory=set)
    back: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)  # handles that it asked to delete
    most: int = 0  # messages held and asked for at the same time

    def look(self) -> None:
        """Note how many it holds and asks for now."""
        asked = sum(self.asked[id(one)] for one in self.waiting if not one.client.at_eof())
        self.most = max(self.most, len(self.given - self.back) + asked)


class Watched(Endpoint):
    """The endpoint, and what it saw."""

    def __init__(self) -> None:
        self.ahead = 0.0
        super().__init__(lambda: time.time() + self.ahead)
        self.connections: defaultdict[str, Connection] = defaultdict(Connection)
        self.ended: set[str] = set()  # handles whose task ended, said by the test before the consumer hears of it
        self.deleted_early: list[str] = []
        self.refused: set[str] = set()  # actions that are answered 503
        self.expired: set[str] = set()  # access keys that are no longer good
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection that can be cut."""
        self._writers.add(writer)
        try:
            await super().serve(reader, writer)
        finally:
            self._writers.discard(writer)

    def cut(self) -> None:
        """End every connection, in the midst of whatever it is doing."""
        for writer in self._writers:
            writer.transport.abort()

    async def _act(self, action: str, params: Json, request: Request) -> Json:
        key = request.headers.get("authorization", "").partition("Credential=")[2].partition("/")[0]
        if key in self.expired:
            raise SqsError("ExpiredTokenException", "The security token included in the request is expired.", 403)
        if action in self.refused:
            raise SqsError("ServiceUnavailable", "Refused by the test.", 503)
        one = self.connections[key]
        if action == "ReceiveMessage":
            return await self._watch_receive(one, params, request)
        handles = [each["ReceiptHandle"] for each in params.get("Entries", [params]) if "ReceiptHandle" in each]
        if action.startswith("DeleteMessage"):
            one.gone.update(handles)
            self.deleted_early += [handle for handle in handles if handle not in self.ended]
        one.back.update(handles)
        return await super()._act(action, params, request)

    async def _watch_receive(self, one: Connection, params: Json, request: Request) -> Json:
        one.waits[id(request)] = params.get("WaitTimeSeconds", 0)
        one.asked[id(request)] = params.get("MaxNumberOfMessages", 1)
        one.waiting.append(request)
        one.look()
        try:
            answer = await super()._act("ReceiveMessage", params, request)
            messages = answer.get("Messages", [])
            if not request.client.at_eof():  # else nobody hears the answer
                one.given.update(message["ReceiptHandle"] for message in messages)
        finally:
            one.waiting.remove(request)
            del one.asked[id(request)], one.waits[id(request)]
        one.look()
        return answer


class Served:
    """A watched endpoint that runs in a thread, on a port that stays its own when it stops and starts again.

    Its methods may be called from the test's thread; `watched` is looked at only while that does no harm.
    """

    def __init__(self, *queues: str, visibility: int = 30) -> None:
        self.watched, self.visibility = Watched(), visibility
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sqs", daemon=True)
        self._server: asyncio.Server | None = None
        self.port = 0
        for name in queues:
            self.watched.create(name, {"VisibilityTimeout": str(visibility)})

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def start(self) -> None:
        """Listen."""

        async def begin() -> None:
            self._server = await asyncio.start_server(self.watched.serve, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

        if not self._thread.is_alive():
            self._thread.start()
        self._do(begin())

    def stop(self) -> None:
        """Listen no more and cut what there is; the messages stay."""

        async def end() -> None:
            if self._server is not None:
                self._server.close()
            self.watched.cut()

        self._do(end())

    def close(self) -> None:
        """Stop for good."""
        self.stop()

        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self._do(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def cut(self) -> None:
        """End every connection."""

        async def cut() -> None:
            self.watched.cut()

        self._do(cut())

    def fault(self, **settings: Any) -> None:
        """Set faults; those that are not named stay."""

        async def change() -> None:
            self.watched.faults = Faults.model_validate({**self.watched.faults.model_dump(), **settings})

        self._do(change())

    def send(self, queue: str, names: Iterable[str]) -> None:
        """Put messages on a queue as kombu would write them."""
        self.put(queue, [envelope(name, queue) for name in names])

    def put(self, queue: str, bodies: Iterable[str]) -> None:
        """Put messages on a queue."""

        async def put() -> None:
            for body in bodies:
                self.watched.queues[queue].send(body)

        self._do(put())

    def pass_time(self, seconds: float) -> None:
        """Let time pass at once: what was hidden shows itself, after what clients have done so far was seen."""

        async def move() -> None:
            for _ in range(LOOKS):
                await asyncio.sleep(0)
            self.watched.ahead += seconds
            for queue in self.watched.queues.values():
                for listener in list(queue.listeners):
                    listener()

        self._do(move())

    def messages(self) -> dict[str, set[str]]:
        """The names of the messages that are on the queues, by `visible` and `hidden`."""

        async def look() -> dict[str, set[str]]:
            found: dict[str, set[str]] = {"visible": set(), "hidden": set()}
            now = time.time() + self.watched.ahead
            for queue in self.watched.queues.values():
                for message in _all(queue):
                    found["hidden" if message.until > now else "visible"].add(name_of(message.body))
            return found

        found: dict[str, set[str]] = self._do(look())
        return found

    def hidden_for(self) -> float:
        """Seconds until the last of the hidden messages shows itself; 0 when none is hidden."""

        async def look() -> float:
            now = time.time() + self.watched.ahead
            return max(
                (message.until - now for q in self.watched.queues.values() for message in _all(q)), default=0
            )

        return max(float(self._do(look())), 0.0)

    def requests(self) -> dict[str, int]:
        """What was asked, by action."""
        return dict(self.watched.requests)


def _all(queue: Queue) -> list[Any]:
    return list(queue._messages.values())


def envelope(body: Any, queue: str, **headers: Any) -> str:
    """A message as kombu writes it."""
    properties = {
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": queue},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": str(uuid.uuid4()),
        "correlation_id": headers.get("id"),
    }
    message = {
        "body": base64.b64encode(orjson.dumps(body)).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": properties,
    }
    return base64.b64encode(orjson.dumps(message)).decode()


def task(number: int, queue: str) -> str:
    """A message of `benchmarks.transport_worker`'s task as Celery writes it."""
    embedded = dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))
    headers = {"lang": "py", "task": "noop", "id": str(uuid.uuid4()), "root_id": None, "parent_id": None}
    return envelope([[number], {}, embedded], queue, **headers)


def name_of(body: str) -> str:
    """The name in a message that kombu wrote."""
    return str(orjson.loads(base64.b64decode(orjson.loads(base64.b64decode(body))["body"])))


@contextmanager
def served(*queues: str, visibility: int = 30) -> Iterator[Served]:
    """A watched endpoint with these queues."""
    made = Served(*queues, visibility=visibility)
    made.start()
    try:
        yield made
    finally:
        with suppress(TimeoutError):
            made.close()


def queue_url(endpoint: str, name: str) -> str:
    """A queue's address."""
    return f"{endpoint}/{ACCOUNT}/{name}"
