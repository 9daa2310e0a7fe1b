import nats
import pytest


@pytest.fixture
def nats_client():
    """Connects the plain client, with errors that end a connection on purpose kept off stderr."""

    async def quiet(error):
        pass

    async def connect(url, **options):
        return await nats.connect(url, error_cb=quiet, **options)

    return connect
