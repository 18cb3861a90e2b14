"""The proxy of the fault proof: what it passes, holds and cuts, and that nothing of it is left."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sandbox.system_ports import free_port
from tests.e2e.faults.proxy import Proxy


@contextmanager
def echo(prefix: bytes) -> Iterator[int]:
    """A server that says what it hears, after a prefix; its port."""

    def serve(connection: socket.socket) -> None:
        with connection:
            while heard := connection.recv(100):
                connection.sendall(prefix + heard)

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def ask(connection: socket.socket, text: bytes) -> bytes:
    connection.sendall(text)
    return connection.recv(100)


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=10)


def test_given_a_proxy_when_its_target_changes_then_new_connections_lead_there_and_old_ones_stay() -> None:
    with echo(b"a") as first, echo(b"b") as second, Proxy(first) as proxy, connect(proxy) as old:
        assert ask(old, b"1") == b"a1"
        proxy.target = second
        with connect(proxy) as new:
            assert (ask(old, b"2"), ask(new, b"3")) == (b"a2", b"b3")


def test_given_connections_when_cut_then_they_end_and_new_ones_are_taken() -> None:
    with echo(b"a") as port, Proxy(port) as proxy, connect(proxy) as old:
        assert ask(old, b"1") == b"a1"
        proxy.cut()
        assert old.recv(100) == b""
        with connect(proxy) as new:
            assert ask(new, b"3") == b"a3"


def test_given_a_hold_when_asked_then_nothing_is_answered_until_it_is_over() -> None:
    with echo(b"a") as port, Proxy(port) as proxy, connect(proxy) as old:
        assert ask(old, b"1") == b"a1"
        proxy.hold()
        with connect(proxy) as new:
            for one in (old, new):
                one.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    ask(one, b"2")
                one.settimeout(10)
            proxy.release()
            assert (old.recv(100), new.recv(100)) == (b"a2", b"a2")


def test_given_a_target_that_is_gone_when_asked_then_the_connection_ends() -> None:
    with Proxy(free_port()) as proxy, connect(proxy) as connection:
        assert connection.recv(100) == b""
