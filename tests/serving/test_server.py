"""The server answers what the rewarder says, one line for every mistake."""

import contextlib
import socket
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.common.rewarder import Rewarder, TaskText, certain_verdict
from soler1_jax.reward import baselines
from soler1_jax.serving import protocol
from soler1_jax.serving.client import RewardClient
from soler1_jax.serving.server import RewardServer

SIZE = 4


def brightness() -> Rewarder:
    """A rewarder that says how much brighter it got, plus the length of the task."""

    def mean(views: dict) -> jax.Array:
        return jnp.mean(jnp.asarray(views["external"], jnp.float32), axis=(1, 2, 3))

    def start(params, views, task, key):
        return mean(views), task.ids[:, 0]

    def score(params, state, views, key, truth):
        first, length = state
        return state, certain_verdict(params * (mean(views) - first) + length)

    def prepare(sentences: list[str]) -> TaskText:
        if "boom" in sentences:
            raise RuntimeError("secret detail")
        ids = jnp.array([[len(sentence)] for sentence in sentences], jnp.int32)
        return TaskText(ids, jnp.ones_like(ids, bool))

    return Rewarder(
        params=jnp.array(0.5),
        name="brightness",
        views=("external",),
        image_size=SIZE,
        uses_truth=False,
        start=start,
        score=score,
        prepare=prepare,
        decode=lambda tokens: "",
    )


@pytest.fixture(scope="module")
def port():
    server = RewardServer(brightness())
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def frames(*levels: int) -> dict[str, np.ndarray]:
    return {
        "external": np.stack([np.full((SIZE, SIZE, 3), x, np.uint8) for x in levels])
    }


def test_answers_are_the_rewarders_own(port):
    with RewardClient(port) as client:
        assert client.about["name"] == "brightness"
        assert client.about["views"] == ["external"]
        client.start("a", frames(10, 20), ["abc", "abcd"])
        verdict = client.score("a", frames(30, 20))
        np.testing.assert_allclose(verdict["progress"], [13, 4], rtol=1e-5)
        assert verdict["distribution"].shape == (2, 41)
        assert verdict["parsed"].all()


def test_sessions_and_connections_do_not_mix(port):
    with RewardClient(port) as one, RewardClient(port) as two:
        one.start("a", frames(0), ["a"])
        one.start("b", frames(100), ["a"])
        two.start("a", frames(50), ["a"])
        assert one.score("a", frames(100))["progress"] == pytest.approx(51, rel=1e-4)
        assert one.score("b", frames(100))["progress"] == pytest.approx(1, rel=1e-4)
        assert two.score("a", frames(100))["progress"] == pytest.approx(26, rel=1e-4)
        with pytest.raises(UserError, match="'b' is not"):
            two.score("b", frames(0))


@pytest.mark.parametrize(
    ("views", "sentences", "message"),
    [
        (frames(1, 2), ["one"], "must be uint8"),
        ({}, ["one"], "got nothing"),
        ({"external": np.zeros((1, SIZE, SIZE, 3), np.float32)}, ["one"], "float32"),
        (frames(1), [], "needs an episode"),
    ],
)
def test_bad_requests_get_one_line_and_the_connection_goes_on(
    port, views, sentences, message
):
    with RewardClient(port) as client:
        with pytest.raises(UserError, match=message) as caught:
            client.start("a", views, sentences)
        assert "\n" not in str(caught.value)
        client.start("a", frames(1), ["one"])
        assert client.score("a", frames(1))["progress"] == pytest.approx(3, rel=1e-4)


def test_a_fault_inside_reaches_the_client_without_details(port):
    with RewardClient(port) as client:
        with pytest.raises(UserError, match="could not answer") as caught:
            client.start("a", frames(1), ["boom"])
        assert "secret" not in str(caught.value)
        client.start("a", frames(1), ["one"])


def test_garbage_closes_only_its_own_connection(port):
    with contextlib.closing(socket.create_connection(("127.0.0.1", port))) as raw:
        raw.sendall(b"\xff" * 64)
        fields, _ = protocol.receive(raw)
        assert "not a message" in fields["error"]
    with RewardClient(port) as client:
        assert client.about["image_size"] == SIZE


@pytest.mark.parametrize("host", ["0.0.0.0", "8.8.8.8", "example.org", ""])
def test_only_loopback_is_bound(host):
    with pytest.raises(UserError, match="loopback"):
        RewardServer(brightness(), host)


def test_what_cannot_be_served_or_reached_is_refused(port):
    with pytest.raises(UserError, match="no truth"):
        RewardServer(baselines.oracle())
    with pytest.raises(UserError, match="free port"):
        RewardServer(brightness(), port=1 << 20)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(UserError, match="must be running"):
            RewardClient(free.getsockname()[1])
