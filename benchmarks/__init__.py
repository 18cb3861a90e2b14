"""What is measured, not asserted: each prints its numbers."""
