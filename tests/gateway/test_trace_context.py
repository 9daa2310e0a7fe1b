"""W3C trace context at the gateway: what of a client's goes on, and what a new trace replaces."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.header_translation import read_head
from gateway.trace_context import LONGEST_STATE, MOST_MEMBERS, Ids

TRACE, PARENT = b"0af7651916cd43dd8448eb211c80319c", b"b7ad6b7169203331"
GIVEN = b"00-%b-%b-01" % (TRACE, PARENT)
NEW = re.compile(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-01")


def trace(*lines):
    """The next hop's ``traceparent`` and ``tracestate`` (None without) for a client's header lines."""
    value, _, state = Ids().trace(read_head(list(lines)).known).partition(b"\r\ntracestate: ")
    return value, state or None


def parent(value, state=b"a=1"):
    return trace((b"Traceparent", value), (b"Tracestate", state))


@pytest.mark.parametrize("flags", [b"00", b"01", b"02", b"ff"])
def test_a_valid_context_goes_on_as_it_came(flags):
    value = b"00-%b-%b-%b" % (TRACE, PARENT, flags)
    assert parent(value) == (value, b"a=1")
    assert parent(value + b" ") == (value, b"a=1")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"nonsense",
        GIVEN[:-1],
        GIVEN + b"-more",
        GIVEN + b"-",
        GIVEN + b"0",
        GIVEN.upper(),
        GIVEN + b"\xe9",
        b"ff" + GIVEN[2:],
        b"00-%b-%b-01" % (b"0" * 32, PARENT),
        b"00-%b-%b-01" % (TRACE, b"0" * 16),
        b"00-%b-%b-0g" % (TRACE, PARENT),
        b"cc" + GIVEN[2:] + b".more",
        b"cc" + GIVEN[2:-1],
        GIVEN + b"," + GIVEN,
    ],
)
def test_an_invalid_one_is_replaced_and_its_state_with_it(value):
    found, state = parent(value)
    assert NEW.fullmatch(found)
    assert TRACE not in found
    assert state is None


def test_a_state_alone_is_none():
    found, state = trace((b"tracestate", b"a=1"))
    assert NEW.fullmatch(found)
    assert state is None


def test_two_parents_are_none():
    found, state = trace((b"traceparent", GIVEN), (b"TraceParent", GIVEN), (b"tracestate", b"a=1"))
    assert NEW.fullmatch(found)
    assert TRACE not in found
    assert state is None


@pytest.mark.parametrize(
    ("flags", "kept"), [(b"00", b"00"), (b"01", b"01"), (b"ff", b"01"), (b"fe", b"00"), (b"03", b"01")]
)
@pytest.mark.parametrize("tail", [b"", b"-", b"-more-\xe9"])
def test_a_later_version_is_written_as_the_known_one(flags, kept, tail):
    value = b"cc-%b-%b-%b%b" % (TRACE, PARENT, flags, tail)
    assert parent(value) == (b"00-%b-%b-%b" % (TRACE, PARENT, kept), b"a=1")


def test_states_of_several_lines_are_one_in_their_order():
    lines = [(b"tracestate", b"a=1 , b=2"), (b"traceparent", GIVEN), (b"TRACESTATE", b""), (b"tracestate", b",c=3")]
    assert trace(*lines) == (GIVEN, b"a=1,b=2,c=3")


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b" , ",
        b"a",
        b"a=",
        b"A=1",
        b"a=1\xe9",
        b"a=b=c",
        b"a=1;b=2, =",
        b",".join(b"a%d=1" % n for n in range(MOST_MEMBERS + 1)),
        b",".join(b"a%d=%b" % (n, b"x" * 200) for n in range(LONGEST_STATE // 200 + 1)),
        b"," * 20_000,
    ],
)
def test_a_state_that_is_none_or_too_much_does_not_go_on(state):
    assert parent(GIVEN, state) == (GIVEN, None)


@given(st.lists(st.tuples(st.sampled_from([b"traceparent", b"tracestate"]), st.binary(max_size=80)), max_size=4))
def test_whatever_comes_what_goes_on_is_sound(lines):
    lines = [(name, value.replace(b"\r", b"").replace(b"\n", b"")) for name, value in lines]
    value, state = trace(*lines)
    assert len(value) == 55
    assert state is None or re.fullmatch(rb"[ -~]+", state)
