import pytest


@pytest.fixture(params=["auto", "plain"])
def lane(request):
    return request.param
