"""Existing applications as services of the mesh, unchanged: ASGI, and WSGI through it."""

from mesh.adapters.application import Adapted, adapt
from mesh.adapters.joining import join

__all__ = ["Adapted", "adapt", "join"]
