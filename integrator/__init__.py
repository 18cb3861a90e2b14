"""The domain: what shops sent, what the management systems owe, and how the two are brought together.

This package knows neither Flask nor Celery; `web` and `tasks` use it, never the other way round.
"""
