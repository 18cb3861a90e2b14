"""The receiver's checks on both databases: what is answered in which order (DESIGN §4)."""

import gzip
import io
from typing import Any

import pytest
from sqlalchemy import select, update
from structlog.testing import capture_logs
from werkzeug.test import EnvironBuilder, TestResponse, run_wsgi_app
from werkzeug.wrappers import Request

from integrator.ledger.engine import Ledger
from integrator.ledger.schema import State, deliveries, shops
from tests.webhooks import (
    KEYS,
    SECRETS,
    Site,
    all_syncs,
    headers,
    order_body,
    site,
    store,
)
from web.problems import MEDIA_TYPE


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, ledger: Ledger) -> Site:
    """An app with acme's shop; bodies of at most 2,000 bytes."""
    store(ledger)
    return site(monkeypatch, ledger, max_body_bytes=2_000)


def raw(made: Site, body: bytes, *, key: str = KEYS["KEY"], **changes: Any) -> TestResponse:
    """Send a body with an environment that the test client would tidy up."""
    builder = EnvironBuilder(path=f"/webhooks/shopify/{key}", method="POST", headers=list(headers(body).items()))
    ours = {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
    environ = builder.get_environ() | ours | changes
    return TestResponse(*run_wsgi_app(made.app, environ), request=Request(environ))


def chunked(made: Site, body: bytes, *, key: str = KEYS["KEY"], **changes: Any) -> TestResponse:
    """Send a body whose length nobody announces."""
    ours: dict[str, Any] = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}
    return raw(made, body, key=key, **(ours | changes))


def test_given_a_genuine_webhook_when_posted_then_it_is_on_disk_and_its_gate_is_asked_for(made: Site) -> None:
    body = order_body()

    answer = made.post(body)

    assert (answer.status_code, answer.data) == (200, b"")
    (sync,) = all_syncs(made.ledger)
    assert (sync.state, sync.wanted, sync.external_id) == (State.PENDING, 1, "5000000000000000001")
    assert answer.headers["X-Correlation-Id"] == sync.correlation_id
    assert made.dispatcher.asked == [sync.gate_id]
    assert made.counted("accepted", tenant="acme", shop="de") == 1


def test_given_a_webhook_when_kept_then_its_bytes_are_and_only_the_headers_of_use(made: Site) -> None:
    body = order_body(name="Grüße \ud800", note=0.1)

    made.post(body)

    with made.ledger.read() as connection:
        row = connection.execute(select(deliveries)).one()
    assert row.body == body
    assert row.headers == {
        "x-shopify-topic": "orders/create",
        "x-shopify-webhook-id": "w-1",
        "x-shopify-shop-domain": "de.myshopify.com",
        "x-shopify-triggered-at": "2026-03-01T12:00:01Z",
        "x-shopify-api-version": "2026-07",
    }


def test_given_the_secret_of_before_a_rotation_when_signed_with_it_then_it_is_genuine(made: Site) -> None:
    body = order_body()

    assert made.post(body, headers(body, secret=SECRETS["OLD"])).status_code == 200


@pytest.mark.parametrize(
    ("method", "size", "key", "secret", "status"),
    [
        # Each row has one thing less wrong than the row before it: the first check that fails answers.
        ("PUT", 2_001, "no-such-key-0123456789abcdef", "wrong", 405),
        ("POST", 2_001, "no-such-key-0123456789abcdef", "wrong", 413),
        ("POST", 2_000, "no-such-key-0123456789abcdef", "wrong", 404),
        ("POST", 2_000, KEYS["KEY"], "wrong", 401),
        ("POST", 2_000, KEYS["KEY"], SECRETS["NEW"], 200),
    ],
)
def test_given_several_things_wrong_when_sent_then_the_first_check_answers(
    made: Site, method: str, size: int, key: str, secret: str, status: int
) -> None:
    body = order_body(pad="")
    body = order_body(pad="x" * (size - len(body)))
    assert len(body) == size

    answer = made.client.open(
        f"/webhooks/shopify/{key}", method=method, data=body, headers=headers(body, secret=secret)
    )

    assert answer.status_code == status
    assert made.rows() == ((1, 1) if status == 200 else (0, 0))
    if status != 200:
        assert answer.content_type == MEDIA_TYPE
    if status not in {200, 405}:
        assert answer.headers["X-Correlation-Id"]


NOBODYS = [
    "/webhooks/shopify/short",
    "/webhooks/shopify/" + "k" * 10_000,
    f"/webhooks/woocommerce/{KEYS['KEY']}",
    f"/webhooks/nobody/{KEYS['KEY']}",
    f"/webhooks/erp/{KEYS['KEY']}",
    f"/webhooks/Shopify/{KEYS['KEY']}",
    "/webhooks/shopify/%00%ff%F0%9F%92%A9",
]


def test_given_a_key_of_nobody_or_of_another_platform_when_posted_then_404(made: Site) -> None:
    with capture_logs() as logs:
        answers = [made.post(order_body(), url=url).status_code for url in NOBODYS]

    assert answers == [404] * len(NOBODYS)
    assert made.counted("unknown_key", tenant="unknown", shop="unknown") == len(NOBODYS)
    assert {(line["event"], line["log_level"]) for line in logs} == {("webhook_refused", "warning")}


def test_given_the_reserved_name_when_a_shop_has_it_all_the_same_then_404(made: Site) -> None:
    with made.ledger.write() as connection:
        connection.execute(update(shops).values(platform="erp"))

    assert made.post(order_body(), url=f"/webhooks/erp/{KEYS['KEY']}").status_code == 404


@pytest.mark.parametrize("size", [2_001, 1_000_000])
@pytest.mark.parametrize("key", [KEYS["KEY"], "no-such-key-0123456789abcdef"])
def test_given_a_streamed_body_when_it_is_too_large_then_413_and_no_more_of_it_is_read(
    made: Site, size: int, key: str
) -> None:
    stream = io.BytesIO(b"x" * size)

    answer = chunked(made, b"", key=key, **{"wsgi.input": stream})

    assert answer.status_code == 413
    assert stream.tell() == 2_001
    assert made.counted("too_large", shop="de" if key == KEYS["KEY"] else "unknown") == 1
    assert made.rows() == (0, 0)


@pytest.mark.parametrize("size", [100, 2_000])
def test_given_a_streamed_body_when_it_fits_then_it_is_kept_whole(made: Site, size: int) -> None:
    body = order_body(pad="x" * (size - len(order_body(pad=""))))
    assert len(body) == size

    assert chunked(made, body).status_code == 200

    with made.ledger.read() as connection:
        assert connection.execute(select(deliveries.c.body)).scalar_one() == body


def test_given_a_body_shorter_than_announced_when_posted_then_it_is_not_kept(made: Site) -> None:
    body = order_body()
    announced = str(len(body) + 1)

    assert raw(made, body, CONTENT_LENGTH=announced).status_code == 400
    assert made.rows() == (0, 0)
    assert made.counted("incomplete", shop="de") == 1


def test_given_a_stream_that_breaks_when_posted_then_400_and_it_is_not_kept(made: Site) -> None:
    class Broken(io.BytesIO):
        def read(self, _: Any = None) -> bytes:
            raise RuntimeError("a chunk without an end")

    broken: dict[str, Any] = {"wsgi.input": Broken(b"x" * 10)}

    answer = raw(made, b"x" * 10, **broken)

    assert (answer.status_code, made.rows()) == (400, (0, 0))


def test_given_a_compressed_body_when_posted_then_it_is_not_decoded(made: Site) -> None:
    body = gzip.compress(order_body(pad="x" * 100_000))
    assert len(body) < 2_000

    answer = made.post(body, headers(body) | {"Content-Encoding": "gzip"})

    assert answer.status_code == 200
    (sync,) = all_syncs(made.ledger)
    assert sync.state == State.HELD


UNSIGNED: list[dict[str, str]] = [
    {},
    {"X-Shopify-Hmac-Sha256": ""},
    {"X-Shopify-Hmac-Sha256": "=?\xff"},
    {"X-Shopify-Hmac-Sha256": "x" * 5_000},
]


def test_given_no_or_a_broken_signature_when_posted_then_401(made: Site) -> None:
    with capture_logs() as logs:
        answers = [made.post(order_body(), {"X-Shopify-Topic": "orders/create"} | given) for given in UNSIGNED]

    assert [answer.status_code for answer in answers] == [401] * len(UNSIGNED)
    assert made.counted("unsigned", tenant="acme", shop="de") == len(UNSIGNED)
    assert {(line["log_level"], line["tenant"], line["shop"]) for line in logs} == {("warning", "acme", "de")}
    assert made.rows() == (0, 0)
