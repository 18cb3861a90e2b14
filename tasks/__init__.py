"""The Celery app and its tasks: `celery -A tasks worker`, `celery -A tasks scheduler`."""

from tasks.app import app

__all__ = ["app"]
