"""One copy of what equal instances announce.

A thousand instances of a service announce the same endpoints and routes. The revision says so, but a peer may
claim a revision whose content it does not have, so content is shared only when it really is equal. Other content under
a known revision gets a revision of this receiver's making: the routes of an instance never become those of another.
"""

from __future__ import annotations

from mesh.messages import Announcement, revision_of
from mesh.registry.instance_records import Content


class Contents:
    """The contents in use, by service and revision, each with the number of its holders."""

    __slots__ = ("_holders", "_shared", "clashes")

    def __init__(self) -> None:
        self.clashes = 0
        """How often a peer claimed a known revision with other content that was not known yet."""
        self._shared: dict[tuple[str, str], Content] = {}
        self._holders: dict[tuple[str, str], int] = {}

    def __len__(self) -> int:
        return len(self._shared)

    def take(self, announcement: Announcement) -> Content:
        """The content of ``announcement`` for one holder, who gives it back through `release`."""
        service, version, revision = announcement.name, announcement.version, announcement.revision
        endpoints, routes = announcement.endpoints, announcement.routes
        shared = self._shared.get((service, revision))
        if shared is not None and not same(shared, announcement):
            # A dot is in no revision that can be announced.
            revision = f"{revision}.{revision_of(service, version, endpoints, routes)}"
            shared = self._shared.get((service, revision))
            self.clashes += shared is None
        if shared is None:
            shared = Content(service, version, revision, announcement.revision, endpoints, routes)
            self._shared[service, revision] = shared
            self._holders[service, revision] = 0
        self._holders[service, revision] += 1
        return shared

    def release(self, content: Content) -> None:
        """Give back what `take` returned; the last holder frees it."""
        key = (content.service, content.revision)
        self._holders[key] -= 1
        if not self._holders[key]:
            del self._shared[key], self._holders[key]


def same(content: Content, announcement: Announcement) -> bool:
    """Whether ``announcement`` announces exactly ``content``."""
    return (
        content.announced_revision == announcement.revision
        and content.version == announcement.version
        and content.routes == announcement.routes
        and content.endpoints == announcement.endpoints
    )
