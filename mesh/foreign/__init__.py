"""NATS micro services (NATS ADR-32) that are not of the mesh: asked through ``$SRV``, their answers read leniently."""

from mesh.foreign.routes import announcement_of, subjects_of
from mesh.foreign.survey import FIRST_S, MicroEndpoint, MicroInstance, read, survey
from mesh.foreign.watch import ForeignWatch

__all__ = [
    "FIRST_S",
    "ForeignWatch",
    "MicroEndpoint",
    "MicroInstance",
    "announcement_of",
    "read",
    "subjects_of",
    "survey",
]
