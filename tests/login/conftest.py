import pytest

from tests.login.material import Authority


@pytest.fixture(params=["auto", "plain"])
def lane(request):
    return request.param


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)
