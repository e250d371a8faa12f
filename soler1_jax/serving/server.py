"""A rewarder behind a socket on this machine: the usual way to call one.

    python -m soler1_jax.serving.server --rewarder nano --port 7070

A connection opens sessions (B episodes that are asked together) and asks for their
progress. What an episode has shown so far stays on the server and is forgotten when the
connection ends. Messages: see `protocol`. Only loopback addresses are bound: messages
carry no credentials.
"""

import argparse
import ipaddress
import logging
import socket
import socketserver
import sys
import threading
from collections import OrderedDict
from typing import Any

import jax
import numpy as np

from soler1_jax.common import compile_cache
from soler1_jax.common.errors import UserError
from soler1_jax.common.rewarder import Rewarder
from soler1_jax.serving import protocol

MAX_SESSIONS = 4096
_LOG = logging.getLogger(__name__)


class RewardServer(socketserver.ThreadingTCPServer):
    """Serves one rewarder until `shutdown` is called.

    Args:
      rewarder: any that does not need the truth.
      host: a loopback address.
      port: 0 for any free one; see `server_address`.
      seed: of what the rewarder draws.

    Raises:
      UserError: the address is not loopback or is taken, or the rewarder is the oracle.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(
        self, rewarder: Rewarder, host: str = "127.0.0.1", port: int = 0, seed: int = 0
    ):
        _check(rewarder, host)
        self.rewarder = rewarder
        self._start = jax.jit(rewarder.start)
        self._score = jax.jit(
            lambda params, state, views, key: rewarder.score(
                params, state, views, key, None
            )
        )
        self._key = jax.random.key(seed)
        self._lock = threading.Lock()
        try:
            super().__init__((host, port), _Connection)
        except (OSError, OverflowError) as error:
            raise UserError(
                f"the server needs a free port; {host}:{port} cannot be bound"
                f" ({error}); choose another --port"
            ) from error

    def answer(
        self, sessions: OrderedDict[str, Any], message: protocol.Message
    ) -> tuple:
        """Return the answer's fields and arrays to one message.

        Raises:
          UserError: the message asks for something impossible.
        """
        fields, arrays = message
        operation = fields.get("op")
        if operation == "hello":
            about = self.rewarder
            known = {
                "name": about.name,
                "views": list(about.views),
                "image_size": about.image_size,
            }
            return known, {}
        if operation not in ("start", "score"):
            raise UserError(f"a request is hello, start or score; got {operation!r}")
        session = str(fields.get("session"))
        if operation == "start":
            sentences = fields.get("sentences")
            self._begin(sessions, session, arrays, sentences)
            return {}, {}
        if session not in sessions:
            raise UserError(f"a session must be started; {session!r} is not; start it")
        state, batch = sessions[session]
        views = self._views(arrays, batch)
        with self._lock:
            state, verdict = self._score(
                self.rewarder.params, state, views, self._next_key()
            )
            sessions[session] = (state, batch)
            said = {k: v for k, v in vars(verdict).items() if v is not None}
            verdict = jax.device_get(said)
        return {}, verdict

    def _begin(
        self,
        sessions: OrderedDict[str, Any],
        session: str,
        arrays: dict[str, np.ndarray],
        sentences: Any,
    ) -> None:
        if not isinstance(sentences, list) or not all(
            isinstance(sentence, str) for sentence in sentences
        ):
            raise UserError("a start needs `sentences`, one string an episode")
        if not sentences:
            raise UserError("a session needs an episode; got none; send a sentence")
        views = self._views(arrays, len(sentences))
        with self._lock:
            text = self.rewarder.prepare(sentences)
            state = self._start(self.rewarder.params, views, text, self._next_key())
        sessions.pop(session, None)
        sessions[session] = (state, len(sentences))
        if len(sessions) > MAX_SESSIONS:
            sessions.popitem(last=False)

    def _views(self, arrays: dict[str, np.ndarray], batch: int) -> dict:
        size = self.rewarder.image_size
        shape = (batch, size, size, 3)
        about = self.rewarder
        used = [v for v in about.views if v in arrays or v not in about.dispensable]
        for view in used:
            given = arrays.get(view)
            if given is None or given.shape != shape or given.dtype != np.uint8:
                got = "nothing" if given is None else f"{given.dtype} {given.shape}"
                raise UserError(f"view {view!r} must be uint8 {shape}; got {got}")
        return {view: arrays[view] for view in used}

    def _next_key(self) -> jax.Array:
        self._key, key = jax.random.split(self._key)
        return key


class _Connection(socketserver.BaseRequestHandler):
    """Answers one client's messages in turn."""

    server: RewardServer

    def handle(self) -> None:
        """Answer until the client leaves."""
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sessions: OrderedDict[str, Any] = OrderedDict()
        try:
            while (message := protocol.receive(self.request)) is not None:
                protocol.send(self.request, *self._answer(sessions, message))
        except protocol.ProtocolError as error:
            # the stream's position is lost, so the connection cannot go on
            _LOG.warning("closed a connection: %s", error)
            protocol.send(self.request, {"error": f"not a message: {error}"})
        except OSError as error:
            _LOG.info("a client left: %s", error)

    def _answer(
        self, sessions: OrderedDict[str, Any], message: protocol.Message
    ) -> tuple:
        try:
            return self.server.answer(sessions, message)
        except UserError as error:
            return {"error": str(error)}, {}
        except Exception:  # noqa: BLE001  a client sees no traceback, whatever failed
            _LOG.exception("a request failed")
            return {"error": "the server could not answer; see its log"}, {}


def _check(rewarder: Rewarder, host: str) -> None:
    if rewarder.uses_truth:
        raise UserError(
            f"a server knows no truth; rewarder {rewarder.name!r} needs it; serve another"
        )
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise UserError(
            f"the server binds loopback addresses only; got {host!r}; use 127.0.0.1"
        )


def main(argv: list[str] | None = None) -> None:
    """Serve until interrupted; prints the port on its first line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rewarder", default="nano", help="nano, random, time, a folder"
    )
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING)
    compile_cache.enable()
    try:
        # only this command needs a checkpoint library
        from soler1_jax.reward.load import load_rewarder

        with RewardServer(load_rewarder(args.rewarder), port=args.port) as server:
            print(f"listening on port {server.server_address[1]}", flush=True)
            server.serve_forever()
    except UserError as error:
        print(f"soler1: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
