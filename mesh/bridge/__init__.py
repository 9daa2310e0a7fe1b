"""A sidecar that stands in the mesh for a service that only speaks HTTP, in any language."""

from mesh.bridge.bridge import Bridge
from mesh.bridge.routes import parse_routes, routes_of_openapi

__all__ = ["Bridge", "parse_routes", "routes_of_openapi"]
