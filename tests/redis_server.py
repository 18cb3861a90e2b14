"""A real Redis for tests: started, killed, stopped and started again on one port."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox import redis
from sandbox.system_ports import free_port
from sandbox.system_process import Process, answers_tcp

PASSWORD = "r3dis-s3cret"


class RedisServer:
    """A server that a test may mistreat; it keeps nothing over a start."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = redis.url(self.port, PASSWORD)
        try:
            argv = redis.command(folder, self.port, PASSWORD)
        except redis.NoRedis as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(str(error))
        self.process = Process("redis", argv, {**os.environ}, folder / "redis.log", answers_tcp(self.port))

    def start(self) -> None:
        self.process.start()
        self.process.wait_ready()

    def kill(self) -> None:
        self.process.kill()

    def hang(self) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGCONT)


@contextmanager
def black_hole(port: int) -> Iterator[None]:
    """Connections to the port are taken, and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", port), backlog=128):
        yield
