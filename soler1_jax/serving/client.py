"""A client of the reward server; needs numpy only.

Letters: B episodes of one session, H W pixels. Progress in percent.
"""

import socket
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np

from soler1_jax.common.errors import UserError
from soler1_jax.serving import protocol


class RewardClient:
    """A connection to a server on this machine.

    Args:
      port: where the server listens.
      host: a loopback address.
      timeout: seconds to wait for an answer; the first one of a shape compiles.

    Raises:
      UserError: nobody listens there.
    """

    def __init__(self, port: int, host: str = "127.0.0.1", timeout: float = 600.0):
        try:
            self._connection = socket.create_connection((host, port), timeout)
        except OSError as error:
            raise UserError(
                f"a reward server must be running; {host}:{port} does not answer"
                f" ({error.strerror or error}); start it first"
            ) from error
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.about = self._ask({"op": "hello"}, {})[0]

    def start(
        self, session: str, views: Mapping[str, np.ndarray], sentences: Sequence[str]
    ) -> None:
        """Begin a session of B episodes.

        Args:
          session: any name; an earlier session of that name is forgotten.
          views: "external" and/or "wrist" -> uint8 [B, H, W, 3], the first frames.
          sentences: B tasks.

        Raises:
          UserError: the server refused, with its reason.
        """
        fields = {"op": "start", "session": session, "sentences": list(sentences)}
        self._ask(fields, views)

    def score(
        self, session: str, views: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Ask for the progress of a session's episodes.

        Args:
          session: as given to `start`.
          views: uint8 [B, H, W, 3] each, the current frames.

        Returns:
          The fields of a Verdict: `progress` float32 [B], `tokens` int32 [B, S] and so
          on.

        Raises:
          UserError: the server refused, with its reason.
        """
        return self._ask({"op": "score", "session": session}, views)[1]

    def close(self) -> None:
        """End the connection; the server forgets its sessions."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(
        self, fields: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> protocol.Message:
        try:
            protocol.send(self._connection, fields, arrays)
            answer = protocol.receive(self._connection)
        except (OSError, protocol.ProtocolError) as error:
            raise UserError(
                f"the reward server must answer; the connection failed ({error}); "
                "see the server's log"
            ) from error
        if answer is None:
            raise UserError(
                "the reward server must answer; it closed the connection; see its log"
            )
        if "error" in answer[0]:
            raise UserError(str(answer[0]["error"]))
        return answer
