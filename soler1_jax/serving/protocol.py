"""Messages between a reward server and its client: JSON fields and plain arrays.

A message is two big-endian lengths (uint32 for the header, uint64 for the body), a JSON
header and the arrays' bytes one after another. The header is `{"fields": {...},
"arrays": [[name, dtype, shape], ...]}`. Nothing in it can name code, and both lengths
are bounded before memory is taken.
"""

import json
import math
import socket
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

HEADER_LIMIT = 1 << 20
BODY_LIMIT = 1 << 28
_LENGTHS = struct.Struct(">IQ")
_DTYPES = ("uint8", "int32", "int64", "float32", "bool")

Message = tuple[dict[str, Any], dict[str, np.ndarray]]


class ProtocolError(ValueError):
    """Bytes that are no message, or a message that must not be sent."""


def encode(fields: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return a message's bytes.

    Args:
      fields: what JSON can hold.
      arrays: uint8, int32, int64, float32 or bool, any shape.

    Raises:
      ProtocolError: another dtype, or more than `BODY_LIMIT` bytes.
    """
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    for name, array in plain.items():
        if array.dtype.name not in _DTYPES:
            raise ProtocolError(f"arrays are {_DTYPES}; {name} is {array.dtype.name}")
    body = b"".join(array.tobytes() for array in plain.values())
    if len(body) > BODY_LIMIT:
        raise ProtocolError(
            f"a message has at most {BODY_LIMIT} bytes; got {len(body)}"
        )
    listed = [(name, array.dtype.name, array.shape) for name, array in plain.items()]
    header = json.dumps({"fields": dict(fields), "arrays": listed}).encode()
    return _LENGTHS.pack(len(header), len(body)) + header + body


def send(
    connection: socket.socket,
    fields: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Send one message; arguments as for `encode`."""
    connection.sendall(encode(fields, arrays or {}))


def receive(connection: socket.socket) -> Message | None:
    """Return the next message's fields and arrays, or None after the last one.

    Raises:
      ProtocolError: the bytes are no message, or the other side left in the middle.
    """
    start = _read(connection, _LENGTHS.size, may_end=True)
    if start is None:
        return None
    header_size, body_size = _LENGTHS.unpack(start)
    if header_size > HEADER_LIMIT or body_size > BODY_LIMIT:
        raise ProtocolError(f"message too long: {header_size} + {body_size} bytes")
    header = _read(connection, header_size)
    body = _read(connection, body_size)
    return _parse(header, body)


def _parse(header: bytes, body: bytes) -> Message:
    try:
        content = json.loads(header)
        fields, listed = dict(content["fields"]), list(content["arrays"])
        arrays, at = {}, 0
        for name, dtype, shape in listed:
            if dtype not in _DTYPES or any(int(side) < 0 for side in shape):
                raise ProtocolError(f"no such array: {dtype} {shape}")
            count = math.prod(int(side) for side in shape)
            size = count * np.dtype(dtype).itemsize
            if at + size > len(body):
                raise ProtocolError("arrays are longer than the message")
            arrays[str(name)] = np.frombuffer(body, dtype, count, at).reshape(shape)
            at += size
    except ProtocolError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProtocolError("the header is not a message's") from error
    if at != len(body):
        raise ProtocolError("arrays are shorter than the message")
    return fields, arrays


def _read(
    connection: socket.socket, size: int, *, may_end: bool = False
) -> bytes | None:
    content = bytearray(size)
    view, got = memoryview(content), 0
    while got < size:
        count = connection.recv_into(view[got:])
        if count == 0:
            if may_end and got == 0:
                return None
            raise ProtocolError(f"the connection ended after {got} of {size} bytes")
        got += count
    return bytes(content)
