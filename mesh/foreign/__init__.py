"""NATS micro services (ADR-32) as anybody may write them: asked through ``$SRV``, read leniently."""

from mesh.foreign.routes import announcement_of, subjects_of
from mesh.foreign.survey import FIRST_S, Asked, Micro, read, survey
from mesh.foreign.watch import ForeignWatch

__all__ = ["FIRST_S", "Asked", "ForeignWatch", "Micro", "announcement_of", "read", "subjects_of", "survey"]
