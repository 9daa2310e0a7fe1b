"""Routes: from a request's target to the service, endpoint and values that answer it. No I/O, no clock."""

from mesh.routes.request_target import MAX_TARGET, RefusedTarget, RequestTarget, parse_target
from mesh.routes.service_claims import Binding, Content, Entry, Rejected
from mesh.routes.slices import Steps
from mesh.routes.table import Gone, Match, NoRoute, NotAllowed, RouteTable
from mesh.routes.template import BadTemplate, Template, mount, parse_template

__all__ = [
    "MAX_TARGET",
    "BadTemplate",
    "Binding",
    "Content",
    "Entry",
    "Gone",
    "Match",
    "NoRoute",
    "NotAllowed",
    "RefusedTarget",
    "Rejected",
    "RequestTarget",
    "RouteTable",
    "Steps",
    "Template",
    "mount",
    "parse_target",
    "parse_template",
]
