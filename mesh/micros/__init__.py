"""NATS micro services (ADR-32) as anybody may write them: asked through ``$SRV``, read leniently."""

from mesh.micros.survey import Asked, Micro, read, survey
from mesh.micros.watch import ForeignWatch

__all__ = ["Asked", "ForeignWatch", "Micro", "read", "survey"]
