"""Every error of the app is problem details, and says nothing of what happened inside."""

import pytest
from flask import Flask, abort
from flask.testing import FlaskClient

from integrator.config import Settings
from web import create_app
from web.problems import MEDIA_TYPE, problem


@pytest.fixture
def app() -> Flask:
    return create_app(Settings(ledger_url="sqlite:////nonexistent/ledger"))


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/", 404),
        ("POST", "/healthz", 405),
        ("GET", "/webhooks/shopify/key", 405),
        ("HEAD", "/webhooks/shopify/key", 405),
        ("OPTIONS", "/webhooks/shopify/key", 405),
        ("PUT", "/webhooks/erp/key", 405),
        ("POST", "/webhooks/shopify", 404),
        ("POST", "/webhooks/shopify/key/more", 404),
    ],
)
def test_given_a_wrong_address_or_method_when_asked_then_the_answer_is_a_problem(
    client: FlaskClient, method: str, path: str, status: int
) -> None:
    answer = client.open(path, method=method)

    assert answer.status_code == status
    assert answer.content_type == MEDIA_TYPE
    if method != "HEAD":
        assert answer.json is not None
        assert answer.json["status"] == status
        assert set(answer.json) == {"type", "title", "status", "detail"}


def test_given_a_wrong_method_when_asked_then_the_allowed_one_is_named(client: FlaskClient) -> None:
    assert client.get("/webhooks/shopify/key").headers["Allow"] == "POST"


def test_given_a_bug_in_a_view_when_asked_then_the_answer_tells_nothing_of_it(app: Flask) -> None:
    def broken() -> str:
        raise RuntimeError("the customer's name is Ada")

    app.add_url_rule("/broken", view_func=broken)

    answer = app.test_client().get("/broken")

    assert (answer.status_code, answer.content_type) == (500, MEDIA_TYPE)
    assert "Ada" not in answer.text
    assert "Traceback" not in answer.text


def test_given_an_answer_that_was_aborted_with_when_asked_then_it_is_left_alone(app: Flask) -> None:
    def stopped() -> str:
        abort(problem(418, "It is a teapot."))

    app.add_url_rule("/stopped", view_func=stopped)

    answer = app.test_client().get("/stopped")

    assert (answer.status_code, answer.json and answer.json["detail"]) == (418, "It is a teapot.")


def test_given_a_wait_when_made_then_it_stands_in_the_header_and_members_in_the_body() -> None:
    made = problem(503, "Come back.", retry_after_seconds=5, correlation_id="c1")

    assert made.headers["Retry-After"] == "5"
    assert made.json == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "Come back.",
        "correlation_id": "c1",
    }


def test_given_401_when_made_then_it_names_how_to_authenticate() -> None:
    assert "WWW-Authenticate" in problem(401, "No.").headers
