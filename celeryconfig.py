"""Every Celery setting, in one place. It is read when Celery loads it; what an installation sets is in
`integrator.config`.

What is not here on purpose: a result backend (the ledger knows), eta and countdown (nothing that is not due is on
SQS), autoretry (the ledger owns retries), beat (`celery -A tasks scheduler` is one small loop).
"""

from integrator.config import settings
from tasks.queues import QUEUES

_settings = settings()
_endpoint = (_settings.sqs_endpoint_url or "").partition("://")

broker_url = f"sqs://{_endpoint[2].rstrip('/')}"
"""Without credentials: boto3 finds them by its own chain, and `inspect` prints this."""

broker_transport = "tasks.transport:Transport"
broker_transport_options = {
    "region": _settings.sqs_region,
    "is_secure": _endpoint[0] != "http",
    "wait_time_seconds": 15,
    # How soon a full or empty-handed worker asks again; the long poll does the waiting, not this.
    "polling_interval": 0.05,
    "predefined_queues": {
        _settings.queue_name(queue.name): {"url": _settings.queue_url(queue.name), "region": _settings.sqs_region}
        for queue in QUEUES
    },
    # Publishing takes 3 s at most and is not repeated: what failed is put back at once (PROTOCOL P3).
    "client-config": {"connect_timeout": 3, "read_timeout": 3, "retries": {"total_max_attempts": 1}},
}
broker_connection_retry_on_startup = True
broker_connection_timeout = 3
broker_pool_limit = 2

task_serializer = "json"
accept_content = ["json"]
result_backend = None
task_ignore_result = True
task_store_errors_even_if_ignored = False

task_default_queue = _settings.queue_name(QUEUES[0].name)
task_create_missing_queues = False
task_queues: dict[str, dict[str, str]] = {_settings.queue_name(queue.name): {} for queue in QUEUES}
task_publish_retry = False
task_acks_late = False
"""The ledger's lease decides who works, not the broker: a message ends when its task starts (PROTOCOL C6)."""

include = ["tasks.orders"]
timezone = "UTC"
enable_utc = True

worker_pool = "tasks.pool:FairPool"
worker_concurrency = _settings.worker_threads
worker_prefetch_multiplier = 1
"""As many messages wait for a thread as there are threads. Those that wait for their own tenant's share are not
among them (`tasks.pool`), so that no tenant's messages stand before another's.
"""
worker_hijack_root_logger = False
worker_redirect_stdouts = False
worker_max_tasks_per_child = None
worker_cancel_long_running_tasks_on_connection_loss = True
"""It ends tasks that are acknowledged late, and none is; unset, Celery warns of it at each lost connection."""
worker_enable_remote_control = False
"""Celery's own remote control would need a broker that SQS is not; `tasks.control_plane` has a way of its own."""

worker_send_task_events = _settings.control_plane_url is not None
