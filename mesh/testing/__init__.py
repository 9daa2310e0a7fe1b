"""For tests of services: a real NATS server and a real gateway, in one process with the services under test.

::

    from mesh.testing import Mesh
    from users.service import service

    async def test_a_user_is_found():
        async with Mesh(service) as mesh:
            response = await mesh.http.get("/users/1")
            assert response.status_code == 200
"""

from mesh.testing.clock import PausedClock
from mesh.testing.mesh import Mesh

__all__ = ["Mesh", "PausedClock"]
