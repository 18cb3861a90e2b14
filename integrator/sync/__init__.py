"""Bringing the management system to what the shop says: snapshot + applied state -> plan -> steps."""
