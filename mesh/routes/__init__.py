"""Routes: from a request's target to the service, endpoint and values that answer it. No I/O, no clock."""

from mesh.routes.request_target import MAX_TARGET, RefusedTarget, RequestTarget, parse_target
from mesh.routes.route_policy import RoutePolicy, merge_policies
from mesh.routes.service_claims import AnnouncedRoutes, Rejected, RevisionRoute, ServedRoute
from mesh.routes.slices import Steps
from mesh.routes.table import Gone, Match, NoRoute, NotAllowed, RouteTable
from mesh.routes.template import BadTemplate, Template, mount, parse_template

__all__ = [
    "MAX_TARGET",
    "AnnouncedRoutes",
    "BadTemplate",
    "Gone",
    "Match",
    "NoRoute",
    "NotAllowed",
    "RefusedTarget",
    "Rejected",
    "RequestTarget",
    "RevisionRoute",
    "RoutePolicy",
    "RouteTable",
    "ServedRoute",
    "Steps",
    "Template",
    "merge_policies",
    "mount",
    "parse_target",
    "parse_template",
]
