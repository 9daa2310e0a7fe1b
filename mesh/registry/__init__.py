"""The live instances as one receiver knows them: pure decisions, the time is passed in."""

from mesh.registry.instance_records import AlteredRoute, AnnouncedContent, Change, ChangeKind, DiscoverRequest, Instance
from mesh.registry.liveness import Liveness
from mesh.registry.registry import Registry

__all__ = [
    "AlteredRoute",
    "AnnouncedContent",
    "Change",
    "ChangeKind",
    "DiscoverRequest",
    "Instance",
    "Liveness",
    "Registry",
]
