"""The Flask app: the webhook receiver, health, metrics and the commands of `flask --app web`."""

from web.app import create_app

__all__ = ["create_app"]
