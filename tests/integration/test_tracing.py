"""Traces: one from the webhook to the calls, none unless wanted, and nothing in it that is not ours to tell."""

import builtins
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from integrator import tracing
from integrator.config import Settings
from integrator.errors import Transient
from integrator.http import Http
from integrator.ledger.engine import Ledger
from integrator.tracing import ATTRIBUTES, NOTHING, TracesUnavailable
from tests.webhooks import KEYS, headers, order_body, site, store, tenant

TOLD = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    """Everything is traced, and seen at once."""
    exporter = InMemorySpanExporter()
    tracing.configure(Settings(traces_share=1), "test", exporter)
    yield exporter
    tracing.configure(Settings(), "test")


def named(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def trace_of(span: ReadableSpan) -> str:
    return f"{span.get_span_context().trace_id:032x}"  # type: ignore[union-attr]


def test_given_a_webhook_and_its_run_when_traced_then_they_are_one_trace_that_has_the_correlation_id(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, sqlite_ledger: Ledger
) -> None:
    store(sqlite_ledger, tenant())
    made = site(monkeypatch, sqlite_ledger)
    told = made.post(order_body()).headers["X-Correlation-Id"]
    with tracing.resume("run", told), tracing.inner("call"):
        pass

    spans = named(exporter)
    assert set(spans) == {"webhook", "keep", "run", "call"}
    assert {trace_of(span) for span in spans.values()} == {told}
    parents = {name: span.parent.span_id if span.parent else None for name, span in spans.items()}
    ids = {name: span.get_span_context().span_id for name, span in spans.items()}  # type: ignore[union-attr]
    assert parents == {"webhook": None, "keep": ids["webhook"], "run": ids["webhook"], "call": ids["run"]}
    assert dict(spans["webhook"].attributes or {}) == {
        "integrator.tenant": "acme",
        "integrator.shop": "de",
        "integrator.platform": "shopify",
        "integrator.status": 200,
    }


def test_given_a_further_webhook_of_an_order_when_traced_then_it_is_linked_to_the_orders_trace(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, sqlite_ledger: Ledger
) -> None:
    store(sqlite_ledger, tenant())
    made = site(monkeypatch, sqlite_ledger)
    told = made.post(order_body(1)).headers["X-Correlation-Id"]
    exporter.clear()
    body = order_body(1, note="changed")
    assert made.post(body, headers(body, event="another")).headers["X-Correlation-Id"] == told

    webhook = named(exporter)["webhook"]
    assert trace_of(webhook) != told
    assert [f"{link.context.trace_id:032x}" for link in webhook.links] == [told]


def test_given_webhooks_of_all_kinds_when_traced_then_no_span_holds_a_key_a_body_or_an_address(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, sqlite_ledger: Ledger
) -> None:
    store(sqlite_ledger, tenant())
    made = site(monkeypatch, sqlite_ledger)
    body = order_body(1, email="someone@example.org")
    made.post(body)
    made.post(body, {})
    made.post(body, url="/webhooks/shopify/someone-guesses-this-key")
    spans = exporter.get_finished_spans()
    said = json.dumps([json.loads(span.to_json()) for span in spans])

    assert [span.name for span in spans].count("webhook") == 3
    for secret in (KEYS["KEY"], "someone", "/webhooks", "example.org"):
        assert secret not in said
    allowed = {f"integrator.{name}" for name in ATTRIBUTES}
    assert {name for span in spans for name in span.attributes or {}} <= allowed
    assert [event for span in spans for event in span.events] == []


def test_given_an_error_when_its_span_ends_then_it_names_the_class_and_not_the_text(
    exporter: InMemorySpanExporter,
) -> None:
    with pytest.raises(ValueError, match="someone"), tracing.begin("webhook", TOLD):
        raise ValueError("someone@example.org")
    (span,) = exporter.get_finished_spans()
    assert span.status.description == "ValueError"
    assert "someone" not in span.to_json()


def test_given_a_call_when_traced_then_it_says_host_method_and_what_became_of_it_and_no_address(
    exporter: InMemorySpanExporter,
) -> None:
    http = Http("http://127.0.0.1:9/api", headers={"Authorization": "Bearer t0ken"})
    with tracing.begin("run", TOLD), pytest.raises(Transient):
        http.request("POST", "/orders/1001", params={"q": "someone"}, body=b"{}")
    call = named(exporter)["call"]
    assert dict(call.attributes or {}) == {"integrator.host": "127.0.0.1", "integrator.method": "POST"}
    assert call.status.description == "Transient"
    assert not {"t0ken", "1001", "someone"} & set(re.findall(r"\w+", call.to_json()))


def test_given_a_name_that_is_not_listed_when_noted_then_it_is_refused_even_without_traces() -> None:
    with pytest.raises(ValueError, match="email"):
        NOTHING.note(email="x")


@pytest.mark.parametrize("told", ["c1", "", "0" * 32, TOLD.upper(), f"{TOLD}0"])
def test_given_what_is_no_traces_id_when_traced_then_there_is_no_span_and_the_work_goes_on(
    exporter: InMemorySpanExporter, told: str
) -> None:
    with tracing.begin("webhook", told), tracing.resume("run", told) as span, tracing.inner("call"):
        span.link(told)
        span.fail("Transient")
    assert exporter.get_finished_spans() == ()


def test_given_a_share_of_none_when_work_is_done_then_nothing_is_traced_and_no_library_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracing.configure(Settings(), "test")
    monkeypatch.setattr(builtins, "__import__", _without_library)
    with (
        tracing.begin("webhook", TOLD) as one,
        tracing.resume("run", TOLD) as other,
        tracing.inner("call") as call,
    ):
        assert one is other is call is NOTHING


def test_given_traces_without_their_library_when_started_then_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(builtins, "__import__", _without_library)
    with pytest.raises(TracesUnavailable, match=r"integrator\[traces\]"):
        tracing.configure(Settings(traces_share=0.1), "test")


_import = builtins.__import__


def _without_library(name: str, *args: Any, **kwargs: Any) -> Any:
    if name.startswith("opentelemetry"):
        raise ImportError(name)
    return _import(name, *args, **kwargs)


def test_given_a_share_when_two_processes_meet_an_order_then_both_trace_it_or_none_does() -> None:
    exporters = [InMemorySpanExporter(), InMemorySpanExporter()]
    told = [hashlib.sha256(bytes([number])).hexdigest()[:32] for number in range(100)]
    for exporter, open_span in zip(exporters, (tracing.begin, tracing.resume), strict=True):
        tracing.configure(Settings(traces_share=0.5), "test", exporter)
        for one in told:
            with open_span("run", one):
                pass
    tracing.configure(Settings(), "test")
    seen = [{trace_of(span) for span in exporter.get_finished_spans()} for exporter in exporters]
    assert seen[0] == seen[1]
    assert 0 < len(seen[0]) < 100
