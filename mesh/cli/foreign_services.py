"""Foreign NATS micro services as the commands show them: with the routes that a gateway would serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mesh.foreign import MicroInstance
    from mesh.messages import Announcement


def announced_by(micro: MicroInstance, prefix: str, problems: list[str] | None = None) -> Announcement | None:
    """What ``micro`` announces in the eyes of a gateway. None for an instance of a mesh, or if its name is not one.

    prefix: that of the mesh that the command looks at
    problems: gets a sentence for everything that is left out
    """
    from mesh.foreign import announcement_of

    return announcement_of(micro, prefix, [] if problems is None else problems) if micro.foreign else None
