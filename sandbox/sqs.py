"""An SQS endpoint for one machine, with faults on command.

    python -m sandbox.sqs --port 0 --queue orders --queue stock:60:20

prints `ready http://127.0.0.1:PORT` and speaks AWS JSON 1.0, which is all that boto3 1.44 and kombu 5.7 (its
pycurl receive included) send. Credentials are not looked at, nothing is kept on disk. `GET /_sandbox` counts
the requests by action, `POST /_sandbox` sets faults (see `Faults`), `DELETE /_sandbox` ends them and the counts.
"""

import argparse
import asyncio
import math
import random
import signal
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal

import orjson
from pydantic import BaseModel, Field, ValidationError

from sandbox.sqs_actions import ACTIONS, BATCHES, NAME, Json, check, check_batch, render
from sandbox.sqs_queue import ACCOUNT, AWS, MAX_BYTES, Clock, Queue, SqsError

MAX_REQUEST_BYTES = 8 * MAX_BYTES  # JSON takes up to six bytes for one of a message


class Faults(BaseModel, frozen=True, extra="forbid"):
    """All that `POST /_sandbox` can set; fields that it does not name stay as they are."""

    latency_ms: float = Field(0, ge=0)  # what a request waits; the median, if latency_p99_ms is greater
    latency_p99_ms: float = Field(0, ge=0)  # then the waits are log-normal
    duplicates: float = Field(0, ge=0, le=1)  # that a received message is delivered once more, deleted or not
    reordering: bool = False  # receives take any visible message, not the oldest
    throttling: float = Field(0, ge=0, le=1)  # that a request is refused with RequestThrottled
    entry_failures: float = Field(0, ge=0, le=1)  # that an entry of a batch fails while the request is a 200
    unavailable: Literal[False, "503", "hang"] = False
    seed: int = 0  # naming it begins the random numbers anew

    def latency_seconds(self, rng: random.Random) -> float:
        """How long one request waits."""
        if not 0 < self.latency_ms < self.latency_p99_ms:
            return max(self.latency_ms, self.latency_p99_ms) / 1000
        sigma = math.log(self.latency_p99_ms / self.latency_ms) / 2.326  # a standard normal's 99th percentile
        return rng.lognormvariate(math.log(self.latency_ms / 1000), sigma)


@dataclass(frozen=True)
class Request:
    """One HTTP request; `client` tells whether somebody still waits for the answer."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    client: asyncio.StreamReader


class Endpoint:
    """All queues, what was asked of them, and the faults in force."""

    def __init__(self, clock: Clock = time.time) -> None:
        self.queues, self._now = dict[str, Queue](), clock
        self.requests: Counter[str] = Counter()
        self.faults = Faults()
        self._rng = random.Random(0)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's requests until it ends, or the server does (CancelledError)."""
        with suppress(ConnectionError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError):
            while (request := await _read(reader)) is not None:
                writer.write(await self._answer(request))
                await writer.drain()
        writer.close()

    async def _answer(self, request: Request) -> bytes:
        action = request.headers.get("x-amz-target", "").removeprefix("AmazonSQS.")
        try:
            if request.path == "/_sandbox":
                return _response(200, self._control(request))
            self.requests[action] += 1
            await self._fail_on_command(request.client)
            return _response(200, await self._act(action, orjson.loads(request.body), request))
        except SqsError as error:
            failure = error
        except ValidationError as error:
            failure = SqsError("ValidationException", str(error), status=422)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            failure = SqsError("SerializationException", f"The request has the wrong shape: {error!r}")
        body = {"__type": f"com.amazonaws.sqs#{failure.name}", "message": failure.message}
        sender = "Sender" if failure.status < 500 else "Receiver"
        return _response(failure.status, body, f"x-amzn-query-error: {failure.code};{sender}\r\n")

    def _control(self, request: Request) -> Json:
        if request.method == "POST":
            named = orjson.loads(request.body)
            self.faults = Faults.model_validate({**self.faults.model_dump(), **named})
            self._rng = random.Random(self.faults.seed) if "seed" in named else self._rng
        if request.method == "DELETE":
            self.faults, self.requests = Faults(), Counter()
        return {"settings": self.faults.model_dump(), "requests": dict(self.requests)}

    async def _fail_on_command(self, client: asyncio.StreamReader) -> None:
        if self.faults.unavailable == "hang":
            await client.read()  # until the client gives up
            raise ConnectionResetError
        self._fail_sometimes(self.faults.unavailable == "503", "ServiceUnavailable", 503)
        if seconds := self.faults.latency_seconds(self._rng):
            await asyncio.sleep(seconds)
        self._fail_sometimes(self.faults.throttling, "RequestThrottled", 403)  # 403 in the service model

    def _fail_sometimes(self, probability: float, code: str, status: int) -> None:
        if self._rng.random() < probability:
            raise SqsError(code, "Failed on command.", status)

    async def _act(self, action: str, params: Json, request: Request) -> Json:
        check(action, params)
        base = f"http://{request.headers.get('host', '127.0.0.1')}/{ACCOUNT}/"
        if action == "ListQueues":
            prefix = params.get("QueueNamePrefix", "")
            return {"QueueUrls": [base + name for name in self.queues if name.startswith(prefix)]}
        if action == "CreateQueue":
            return {"QueueUrl": base + self.create(params["QueueName"], params.get("Attributes", {})).name}
        key = {"GetQueueUrl": "QueueName", "StartMessageMoveTask": "SourceArn"}.get(action, "QueueUrl")
        name = params[key].replace(":", "/").rpartition("/")[2]
        if name not in self.queues:
            raise SqsError(f"{AWS}NonExistentQueue", "The specified queue does not exist.")
        if action == "GetQueueUrl":
            return {"QueueUrl": base + name}
        if action == "DeleteQueue":
            del self.queues[name]
            return {}
        return await self._act_on(self.queues[name], action, params, request.client)

    async def _act_on(self, queue: Queue, action: str, params: Json, client: asyncio.StreamReader) -> Json:
        if action == "ReceiveMessage":
            return await self._receive(queue, params, client)
        if action in BATCHES:
            return self._batch(queue, action, params.get("Entries", []))
        return ACTIONS[action](queue, params) or {}

    def create(self, name: str, attributes: Mapping[str, str]) -> Queue:
        """Create a queue, or find the one of that name if it has these attributes."""
        if not NAME.fullmatch(name):
            raise SqsError("InvalidParameterValue", f"The name of a queue is like {NAME.pattern}.")
        queue = self.queues.setdefault(name, Queue(name, self._now, attributes, self.queues))
        if queue.attributes.changed(attributes) != queue.attributes:
            raise SqsError("QueueAlreadyExists", "The specified queue already exists.")
        return queue

    def _batch(self, queue: Queue, action: str, entries: list[Json]) -> Json:
        check_batch(entries)
        answer: Json = {"Successful": [], "Failed": []}
        for entry in entries:
            try:
                check(action, entry)
                self._fail_sometimes(self.faults.entry_failures, "InternalError", 500)
                answer["Successful"].append({"Id": entry["Id"], **(BATCHES[action](queue, entry) or {})})
            except SqsError as error:
                failed = {"Id": entry["Id"], "Code": error.name, "Message": error.message}
                answer["Failed"].append({**failed, "SenderFault": error.status < 500})
        return answer

    async def _receive(self, queue: Queue, params: Json, client: asyncio.StreamReader) -> Json:
        deadline = self._now() + params.get("WaitTimeSeconds", queue.attributes.receive_message_wait_time_seconds)
        take = partial(
            queue.receive,
            params.get("MaxNumberOfMessages", 1),
            params.get("VisibilityTimeout"),
            choose=self._rng.randrange if self.faults.reordering else None,
            repeat=lambda: self._rng.random() < self.faults.duplicates,
        )
        while not (messages := take()) and self._now() < deadline:
            changed = asyncio.Event()
            queue.listeners.add(changed.set)
            due = min(deadline, queue.next_change() or deadline)
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), max(due - self._now(), 0.001))
            queue.listeners.discard(changed.set)
            if client.at_eof():  # nobody is left to receive
                raise ConnectionResetError
        return {"Messages": [render(queue, message, params) for message in messages]} if messages else {}


async def _read(reader: asyncio.StreamReader) -> Request | None:
    """The next request, or None for what is no HTTP of a known and bearable length: the connection ends."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    words, length = first.split(" "), headers.get("content-length", "0")
    known = len(words) == 3 and length.isdecimal() and "transfer-encoding" not in headers
    if not known or int(length) > MAX_REQUEST_BYTES:
        return None
    return Request(words[0], words[1], headers, await reader.readexactly(int(length)), reader)


def _response(status: int, content: Json, error_header: str = "") -> bytes:
    body = orjson.dumps(content)
    head = f"HTTP/1.1 {status} \r\nContent-Type: application/x-amz-json-1.0\r\n{error_header}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _declare(endpoint: Endpoint, spec: str) -> None:
    """Create NAME[:VisibilityTimeout[:maxReceiveCount]] and its NAME-dlq, which keeps for 14 days."""
    name, visibility, receives = [*spec.split(":"), "", ""][:3]
    dead = endpoint.create(f"{name}-dlq", {"MessageRetentionPeriod": "1209600"})
    policy = orjson.dumps({"deadLetterTargetArn": dead.arn, "maxReceiveCount": int(receives or 10)})
    endpoint.create(name, {"VisibilityTimeout": visibility or "120", "RedrivePolicy": policy.decode()})


async def run(port: int, specs: Iterable[str]) -> None:
    """Serve until SIGTERM or SIGINT."""
    endpoint, stopped = Endpoint(), asyncio.Event()
    for spec in specs:
        _declare(endpoint, spec)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    server = await asyncio.start_server(endpoint.serve, "127.0.0.1", port, backlog=1024)
    print(f"ready http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await stopped.wait()
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m sandbox.sqs", description="An SQS endpoint, in memory.")
    parser.add_argument("--port", type=int, default=9324)
    parser.add_argument("--queue", action="append", default=[], metavar="NAME[:VISIBILITY[:RECEIVES]]")
    options = parser.parse_args()
    asyncio.run(run(options.port, options.queue))
