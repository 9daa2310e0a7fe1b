"""One copy of what equal instances announce.

A thousand instances of a service announce the same endpoints and routes. The revision says so, but a peer may
claim a revision whose content it does not have. So content is shared only if it really is equal. Other content under a
known revision gets a revision that this receiver makes: an instance never gets the routes of another.
"""

from __future__ import annotations

from mesh.messages import Announcement, revision_of
from mesh.registry.instance_records import AnnouncedContent


class ContentPool:
    """The content in use, by service and revision, each with the number of instances that hold it."""

    __slots__ = ("_holders", "_shared", "clashes")

    def __init__(self) -> None:
        self.clashes = 0
        """How often a peer claimed a known revision with other content that was not known yet."""
        self._shared: dict[tuple[str, str], AnnouncedContent] = {}
        self._holders: dict[tuple[str, str], int] = {}

    def __len__(self) -> int:
        return len(self._shared)

    def take(self, announcement: Announcement) -> AnnouncedContent:
        """The content of ``announcement`` for one holder, which gives it back through `release`."""
        service, version, revision = announcement.name, announcement.version, announcement.revision
        endpoints, routes = announcement.endpoints, announcement.routes
        shared = self._shared.get((service, revision))
        if shared is not None and not is_same(shared, announcement):
            # A revision that can be announced has no dot.
            revision = f"{revision}.{revision_of(service, version, endpoints, routes)}"
            shared = self._shared.get((service, revision))
            self.clashes += shared is None
        if shared is None:
            shared = AnnouncedContent(service, version, revision, announcement.revision, endpoints, routes)
            self._shared[service, revision] = shared
            self._holders[service, revision] = 0
        self._holders[service, revision] += 1
        return shared

    def release(self, content: AnnouncedContent) -> None:
        """Give back what `take` returned. The last holder frees it."""
        key = (content.service, content.revision)
        self._holders[key] -= 1
        if not self._holders[key]:
            del self._shared[key], self._holders[key]


def is_same(content: AnnouncedContent, announcement: Announcement) -> bool:
    """True if ``announcement`` announces exactly ``content``."""
    return (
        content.announced_revision == announcement.revision
        and content.version == announcement.version
        and content.routes == announcement.routes
        and content.endpoints == announcement.endpoints
    )
