"""Connectors to management systems, one module each, found through the entry-point group `integrator.erps`."""
