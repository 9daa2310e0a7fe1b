import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import BadSubject
from mesh.subjects import MAX_SUBJECT, Party, Subjects, check_subject, is_name, new_id

subjects = Subjects("mesh")


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        (subjects.announce("users", "I1"), "mesh.announce.users.I1"),
        (subjects.announce(), "mesh.announce.*.*"),
        (subjects.heartbeat("users"), "mesh.heartbeat.users.*"),
        (subjects.discover(), "mesh.discover"),
        (subjects.discover("users"), "mesh.discover.users"),
        (subjects.discover("users", "I1"), "mesh.discover.users.I1"),
        (subjects.request("users", "get"), "mesh.req.users.get"),
        (subjects.to("users", "I1", "get"), "mesh.to.users.I1.get"),
        (subjects.inbox("client", "I1", "r"), "mesh.inbox.client.I1.r"),
        (subjects.control("drain", "users"), "mesh.ctl.users.drain"),
        (subjects.control("drain", "users", "I1"), "mesh.ctl.users.I1.drain"),
        (subjects.event("bets.settled"), "mesh.event.bets.settled"),
        (Subjects("staging").request("a", "b"), "staging.req.a.b"),
    ],
)
def test_subjects_are_those_of_the_protocol(built, expected):
    assert built == expected


@pytest.mark.parametrize("prefix", ["", "a.b", "a b", "*", ">", "a\n", "é", "x" * 65])
def test_a_prefix_is_one_token(prefix):
    with pytest.raises(BadSubject):
        Subjects(prefix)


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "a..b",
        ".a",
        "a.",
        "a b",
        "a\tb",
        "a\rb",
        "a\nb",
        "a\x0bb",
        "a\x0cb",
        "a\x00b",
        "é",
        "a.*",
        "a.>",
        "x" * (MAX_SUBJECT + 1),
    ],
)
def test_what_hurts_never_becomes_a_subject(subject):
    with pytest.raises(BadSubject):
        check_subject(subject)


def test_wildcards_are_for_subscriptions():
    assert check_subject("a.*.>", wildcards=True) == "a.*.>"


@pytest.mark.parametrize(
    ("reply", "allowed"),
    [
        (b"_INBOX.abc.1", True),
        (b"mesh.inbox.users.I1.r.t", True),
        (b"other.anything", True),
        (b"mesh.announce.users.I1", False),  # would forge an announcement with the responder's permissions
        (b"mesh.heartbeat.users.I1", False),
        (b"mesh.ctl.users.drain", False),
        (b"mesh.req.users.get", False),
        (b"$SRV.PING", False),
        (b"$JS.API.STREAM.DELETE.x", False),
        (b"a\x0bb", False),
        (b"\xff", False),
        (b"", False),
        (b"x" * (MAX_SUBJECT + 1), False),
    ],
)
def test_replies_go_to_inboxes_only(reply, allowed):
    assert subjects.may_reply(reply) is allowed


def test_party_of_a_subject():
    assert subjects.party(b"mesh.announce.users.I1") == Party("users", "I1")
    assert subjects.party(b"mesh.announce.users") is None
    assert subjects.party(b"mesh.announce.us\xffers.I1") is None


def test_ids_are_names_and_differ():
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(is_name(i) and len(i) == 22 and not i.startswith("-") for i in ids)


@given(st.text())
def test_names_never_break_a_subject(text):
    if is_name(text):
        assert check_subject(subjects.request(text, text)).count(".") == 3
