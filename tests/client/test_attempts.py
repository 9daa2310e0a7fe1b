"""The one place that decides about retries: when, at which instance, and which error the caller gets."""

import random
from dataclasses import dataclass

import pytest

from mesh.balancer import Balancer, Outcome, RetryPolicy, RetryReason
from mesh.bus import Reply
from mesh.client import CalledService, CallSpec, NamedEndpoint
from mesh.client.attempts import Attempts, Retry
from mesh.client.failures import outcome_of
from mesh.defaults import RETRY_BODY
from mesh.errors import (
    BadReply,
    BusUnavailable,
    DeadlineExceeded,
    InstanceLost,
    NoInstances,
    NoResponders,
    Overloaded,
    StreamBroken,
)

NOW = 1000.0
SAFE = RetryPolicy(after_loss=True, try_timeout_ms=500)
LOST_CONNECTION = BusUnavailable("it broke", executed="unknown")


@dataclass
class Seen:
    id: str
    service: str = "users"
    state: str = "ready"
    revision: str = "r1"
    suspect: bool = False
    foreign: bool = False
    bundles: bool = False


def attempts(*instances, policy=SAFE, body_bytes=0):
    """The attempts of a call whose first one went to the first instance."""
    balancer = Balancer("users", random.Random(1))
    for instance in instances:
        balancer.update(instance if isinstance(instance, Seen) else Seen(instance))
    spec = CallSpec(destination=NamedEndpoint("users", "get", ""), lines=b"", deadline=NOW + 5, policy=policy)
    made = Attempts(CalledService("users", balancer), spec, body_bytes)
    made.tried.append(next(iter(balancer.peers())))
    return made


def after(made, error):
    """The retry after an attempt that ended so: its reason and its instance, or None."""
    made.failed(made.tried[-1], error, 5.0, NOW)
    return shown(made.retry_after(error, NOW))


def shown(retry):
    return retry and (retry.reason.value, retry.peer and retry.peer.id)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NoResponders(), ("no_responders", "b")),
        (DeadlineExceeded(), ("timeout", "b")),
        (InstanceLost(), ("instance_lost", "b")),
        (LOST_CONNECTION, ("connection_lost", None)),  # it waits for the next connection
        (BadReply(), None),
        (Overloaded(), None),
        (StreamBroken(), None),
    ],
)
def test_a_retry_goes_to_another_instance(error, expected):
    assert after(attempts("a", "b"), error) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NoResponders(), ("no_responders", None)),  # it waits for an instance
        (DeadlineExceeded(), None),
        (InstanceLost(), None),
        (LOST_CONNECTION, ("connection_lost", None)),
    ],
)
def test_without_another_instance(error, expected):
    made = attempts("a")
    assert after(made, error) == expected
    charged = made.service.budget.left(NOW) < 100
    assert charged is (error is LOST_CONNECTION)
    assert made.service.without_instance == (error is not LOST_CONNECTION)


def test_a_retry_that_has_waited_may_go_to_an_instance_that_was_tried():
    made = attempts("a")
    assert shown(made.retry_resumed(Retry(RetryReason.CONNECTION_LOST, None), NOW)) == ("connection_lost", "a")
    made.service.balancer.remove("a")
    assert made.retry_resumed(Retry(RetryReason.CONNECTION_LOST, None), NOW) is None
    assert shown(made.retry_resumed(Retry(RetryReason.NO_RESPONDERS, None), NOW)) == ("no_responders", None)


def test_nats_balances_foreign_services_itself():
    assert after(attempts(Seen("a", foreign=True), "b"), NoResponders()) is None


@pytest.mark.parametrize("error", [DeadlineExceeded(), InstanceLost(), LOST_CONNECTION])
def test_what_may_run_once_is_not_retried_after_it_may_have_run(error):
    assert after(attempts("a", "b", policy=RetryPolicy()), error) is None
    assert after(attempts("a", "b", body_bytes=RETRY_BODY + 1), error) is None
    assert attempts("a", "b", policy=RetryPolicy()).retry_instead(error, NOW) is None


def test_what_no_instance_received_goes_elsewhere_whatever_the_policy():
    assert after(attempts("a", "b", policy=RetryPolicy()), NoResponders()) == ("no_responders", "b")


def test_an_attempt_that_may_be_lost_is_given_up_only_for_a_retry():
    assert shown(attempts("a", "b").retry_instead(InstanceLost(), NOW)) == ("instance_lost", "b")
    assert attempts("a").retry_instead(InstanceLost(), NOW) is None
    assert shown(attempts("a").retry_instead(LOST_CONNECTION, NOW)) == ("connection_lost", "a")


def test_a_loss_is_retried_once_however_it_shows():
    made = attempts("a", "b", "c")
    assert after(made, InstanceLost())
    assert made.retry_instead(LOST_CONNECTION, NOW) is None
    assert after(made, LOST_CONNECTION) is None
    assert after(made, NoResponders())


def test_the_caller_is_never_told_that_nothing_ran_if_an_attempt_may_have():
    made = attempts("a", "b")
    assert made.note(NoResponders()).executed == "no"
    lost = made.note(InstanceLost())
    assert made.note(NoResponders()) is lost
    made.tried.append(made.tried[0])
    assert made.note(NoInstances()).attempts == 2
    refusal = Reply(b"NATS/1.0\r\nMesh-Status: 503\r\n\r\n", b'{"executed":"no"}')
    assert made.error_instead_of(refusal) is lost
    assert made.error_instead_of(Reply(refusal.block, b'{"executed":"yes"}')) is None
    assert made.error_instead_of(Reply(refusal.block, b"no JSON")) is None
    assert made.error_instead_of(Reply(b"NATS/1.0\r\nMesh-Status: 500\r\n\r\n", refusal.payload)) is None


@pytest.mark.parametrize(
    ("error", "timeout", "outcome"),
    [
        (NoResponders(), 5.0, Outcome.NO_RESPONDERS),
        (DeadlineExceeded(), 1.0, Outcome.TIMEOUT),
        (DeadlineExceeded(), 0.9, Outcome.SHORT_TIMEOUT),
        (BadReply(), 5.0, Outcome.BAD_REPLY),
        (InstanceLost(), 5.0, Outcome.LOST),
        (LOST_CONNECTION, 5.0, Outcome.CANCELLED),
        (Overloaded(), 5.0, Outcome.CANCELLED),
    ],
)
def test_what_an_error_says_about_the_instance(error, timeout, outcome):
    assert outcome_of(error, timeout) is outcome
