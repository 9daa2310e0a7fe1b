"""One copy of what equal instances announce.

A thousand instances of a service announce the same endpoints and routes. The revision says so, but a peer may
claim a revision whose content it does not have. So content is shared only if it really is equal.
"""

from __future__ import annotations

from mesh.messages import Announcement
from mesh.registry.instance_records import AnnouncedContent


class ContentPool:
    """The content in use, by service and revision, each with the number of instances that hold it."""

    __slots__ = ("_holders", "_shared", "clashes")

    def __init__(self) -> None:
        self.clashes = 0
        """How often a peer claimed a known revision with other content."""
        self._shared: dict[tuple[str, str], AnnouncedContent] = {}
        self._holders: dict[tuple[str, str], int] = {}

    def __len__(self) -> int:
        return len(self._shared)

    def take(self, announcement: Announcement) -> AnnouncedContent:
        """The content of ``announcement`` for one holder, which gives it back through `release`."""
        key = (announcement.name, announcement.revision)
        shared = self._shared.get(key)
        if shared is not None and is_same(shared, announcement):
            self._holders[key] += 1
            return shared
        content = AnnouncedContent(
            announcement.name, announcement.version, announcement.revision, announcement.endpoints, announcement.routes
        )
        if shared is None:
            self._shared[key] = content
            self._holders[key] = 1
        else:
            # The first one keeps the shared copy. The other one has a copy of its own, whose holders are not counted.
            self.clashes += 1
        return content

    def release(self, content: AnnouncedContent) -> None:
        """Give back what `take` returned. The last holder frees it."""
        key = (content.service, content.revision)
        if self._shared.get(key) is not content:
            return
        self._holders[key] -= 1
        if not self._holders[key]:
            del self._shared[key], self._holders[key]


def is_same(content: AnnouncedContent, announcement: Announcement) -> bool:
    """True if ``announcement`` announces exactly ``content``."""
    return (
        content.revision == announcement.revision
        and content.version == announcement.version
        and content.routes == announcement.routes
        and content.endpoints == announcement.endpoints
    )
