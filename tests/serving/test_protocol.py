"""Messages survive the wire, and bytes that are no message are refused."""

import json
import socket
import struct
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from soler1_jax.serving import protocol

plain = st.sampled_from(["uint8", "int32", "int64", "float32", "bool"])


def through(content: bytes) -> protocol.Message | None:
    """Return what arrives when these bytes are sent and the sender leaves."""
    ours, theirs = socket.socketpair()
    with ours, theirs:

        def write() -> None:
            theirs.sendall(content)
            theirs.shutdown(socket.SHUT_WR)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            return protocol.receive(ours)
        finally:
            ours.close()
            writer.join()


@given(
    st.dictionaries(
        st.text(max_size=8),
        plain.flatmap(
            lambda dtype: arrays.arrays(
                dtype, arrays.array_shapes(min_dims=0, max_side=5, min_side=0)
            )
        ),
        max_size=4,
    ),
    st.dictionaries(st.text(max_size=8), st.text(max_size=8) | st.integers()),
)
def test_a_message_arrives_as_it_was_sent(values, fields):
    got_fields, got = through(protocol.encode(fields, values))
    assert got_fields == fields
    assert got.keys() == values.keys()
    for name, value in values.items():
        assert got[name].dtype == value.dtype
        np.testing.assert_array_equal(got[name], value)


def test_the_end_between_messages_is_no_error():
    assert through(b"") is None


def message(header: object, body: bytes = b"") -> bytes:
    content = json.dumps(header).encode()
    return struct.pack(">IQ", len(content), len(body)) + content + body


@pytest.mark.parametrize(
    "content",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack(">IQ", 10, 0) + b"short",
        struct.pack(">IQ", 1, 1 << 60),
        message([]),
        message({"fields": {}}),
        message({"fields": {}, "arrays": [["x", "object", [1]]]}, b"12345678"),
        message({"fields": {}, "arrays": [["x", "uint8", [-1]]]}, b"1"),
        message({"fields": {}, "arrays": [["x", "uint8", [2]]]}, b"1"),
        message({"fields": {}, "arrays": [["x", "uint8", [1]]]}, b"12"),
        message({"fields": {}, "arrays": [["x", "float32", [1 << 40, 1 << 40]]]}),
        struct.pack(">IQ", 4, 0) + b"\xff\xfe\x00{",
    ],
)
def test_what_is_no_message_is_refused(content):
    with pytest.raises(protocol.ProtocolError):
        through(content)


def test_objects_are_not_sent():
    with pytest.raises(protocol.ProtocolError, match="object"):
        protocol.encode({}, {"x": np.array([None])})
