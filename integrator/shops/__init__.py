"""Connectors to shop platforms, one module each, found through the entry-point group `integrator.shops`."""
