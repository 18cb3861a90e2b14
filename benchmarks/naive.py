"""What `benchmarks.ingest` compares the receiver with: a webhook view as it is often written.

It verifies the signature and hands the whole order to Celery, with the SQS transport as it comes. What it answers
200 is on the queue, and nowhere else.
"""

import base64
import hashlib
import hmac
import os
from typing import Any

from celery import Celery
from flask import Flask, abort, request

QUEUE = "naive"
SECRET = os.environ["NAIVE_SECRET"].encode()
ENDPOINT = os.environ["NAIVE_SQS_URL"]

celery = Celery("naive", broker=ENDPOINT.replace("http://", "sqs://"))
celery.conf.update(
    broker_transport_options={
        "region": "us-east-1",
        "is_secure": False,
        "predefined_queues": {QUEUE: {"url": f"{ENDPOINT}/000000000000/{QUEUE}"}},
    },
    task_default_queue=QUEUE,
    task_ignore_result=True,
)
app = Flask(__name__)


@celery.task  # type: ignore[untyped-decorator]
def handle_order(payload: dict[str, Any]) -> None:
    """Work on the order; nobody does here."""


@app.post("/webhooks/shopify")
def webhook() -> str:
    """Verify, hand over, answer."""
    body = request.get_data()
    expected = base64.b64encode(hmac.new(SECRET, body, hashlib.sha256).digest()).decode()
    if not hmac.compare_digest(request.headers.get("X-Shopify-Hmac-Sha256", ""), expected):
        abort(401)
    handle_order.delay(request.get_json())
    return ""
