"""The live instances as one receiver knows them: pure decisions, the time is passed in."""

from mesh.registry.instance_records import Ask, Change, Content, Instance, Kind
from mesh.registry.liveness import Liveness
from mesh.registry.registry import Registry

__all__ = [
    "Ask",
    "Change",
    "Content",
    "Instance",
    "Kind",
    "Liveness",
    "Registry",
]
