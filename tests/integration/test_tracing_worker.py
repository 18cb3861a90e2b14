"""A worker's traces as a collector gets them, and that a collector that is not there holds nothing up."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from sqlalchemy import update

from integrator.ledger.schema import syncs
from tests.integration.test_worker_health import plant
from tests.workers import Plant, until

__all__ = ["plant"]

TOLD = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Span]]]:
    """Where a collector listens, and the spans that it has got."""
    got: list[Span] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = ExportTraceServiceRequest()
            request.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    got.extend(scope.spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", got
        server.shutdown()


def deliver(plant: Plant) -> None:
    plant.deliver(1)
    with plant.ledger.write() as connection:
        connection.execute(update(syncs).values(correlation_id=TOLD))
    plant.dispatch()


def test_given_a_collector_when_a_worker_runs_a_sync_then_its_run_and_calls_are_in_the_orders_trace(
    plant: Plant, collector: tuple[str, list[Span]]
) -> None:
    url, got = collector
    deliver(plant)
    plant.worker(
        INTEGRATOR_TRACES_SHARE="1",
        OTEL_EXPORTER_OTLP_ENDPOINT=url,
        OTEL_EXPORTER_OTLP_COMPRESSION="none",
        OTEL_BSP_SCHEDULE_DELAY="200",
        NO_PROXY="127.0.0.1",
    )
    until(lambda: plant.states() == ["done"])
    until(lambda: "run" in [span.name for span in got])

    assert {span.trace_id.hex() for span in got} == {TOLD}
    (run,) = (span for span in got if span.name == "run")
    assert run.parent_span_id.hex() == TOLD[:16]
    calls = [span for span in got if span.name == "call"]
    assert calls
    assert {span.parent_span_id for span in calls} == {run.span_id}


def test_given_no_collector_when_a_worker_runs_then_orders_are_done_and_it_ends_when_told(plant: Plant) -> None:
    deliver(plant)
    worker = plant.worker(INTEGRATOR_TRACES_SHARE="1", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    until(lambda: plant.states() == ["done"])
    worker.ask_to_end()
    until(lambda: not worker.alive)
    assert worker.exit_code == 0
