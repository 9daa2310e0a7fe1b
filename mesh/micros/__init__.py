"""NATS micro services (ADR-32) as anybody may write them: asked through ``$SRV``, read leniently."""

from mesh.micros.routes import announcement_of, subjects_of
from mesh.micros.survey import FIRST_S, Asked, Micro, read, survey
from mesh.micros.watch import ForeignWatch

__all__ = ["FIRST_S", "Asked", "ForeignWatch", "Micro", "announcement_of", "read", "subjects_of", "survey"]
