"""Foreign NATS micro services as the commands show them: what a gateway makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mesh.foreign import MicroInstance
    from mesh.messages import Announcement


def announced_by(micro: MicroInstance, prefix: str, problems: list[str] | None = None) -> Announcement | None:
    """What a gateway takes ``micro`` to announce; None for an instance of a mesh, or one whose name is none.

    ``prefix`` is that of the mesh that is looked at. ``problems`` takes a sentence for everything that is left out.
    """
    from mesh.foreign import announcement_of

    return announcement_of(micro, prefix, [] if problems is None else problems) if micro.foreign else None
