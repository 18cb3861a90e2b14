"""Parts of a running system go away and come back under load; `make faults` is the long form (docs/faults.md)."""
