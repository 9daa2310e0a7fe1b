import pytest

from mesh import errors


@pytest.mark.parametrize("cls", [*errors.BY_STATUS.values(), *errors.BY_REASON.values()])
def test_an_error_survives_its_problem_document(cls):
    sent = cls("what happened")
    received = errors.from_problem(sent.status, sent.problem("id-1"))
    assert type(received) is cls
    assert (received.detail, received.reason, received.executed) == ("what happened", sent.reason, sent.executed)


def test_an_unknown_status_is_a_remote_error():
    error = errors.from_problem(418, {"detail": "short and stout", "title": "Teapot", "reason": "teapot", "pot": 1})
    assert isinstance(error, errors.RemoteError)
    assert (error.status, error.title, error.reason, error.extra) == (418, "Teapot", "teapot", {"pot": 1})


def test_fields_of_an_invalid_error_come_along():
    entry = {"field": "body.age", "message": "Expected `int`"}
    error = errors.from_problem(422, errors.Invalid("no", errors=[entry]).problem())
    assert isinstance(error, errors.Invalid)
    assert error.extra["errors"] == [entry]


def test_a_document_of_nonsense_is_still_an_error():
    error = errors.from_problem(503, {"reason": 7, "executed": "perhaps", "detail": None}, "fallback")
    assert isinstance(error, errors.Unavailable)
    assert error.detail == "fallback"
    assert error.executed == "no"


def test_problem_document():
    problem = errors.NotFound("no user 7").problem("id-1")
    assert problem == {
        "type": "about:blank",
        "status": 404,
        "title": "Not found",
        "detail": "no user 7",
        "reason": "not_found",
        "origin": "service",
        "executed": "yes",
        "request_id": "id-1",
    }
