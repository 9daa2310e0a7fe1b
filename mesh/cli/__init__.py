"""The `mesh` and `mesh-tail` commands."""
