"""Existing applications on the mesh."""
