"""Frames: how an agent and its runners, verifiers and zygotes talk over an inherited socket.

A frame is a 4-byte big-endian length and so many bytes of UTF-8 JSON, one object each, both ways.
A message that wants an answer has an `id`; its answer has that number as `reply`. JSON has no NaN:
a number that is not finite travels as "NaN", "Infinity" or "-Infinity", as in the HTTP contract.

`Channel` is the blocking side, for processes with TensorFlow in them. The agent reads the same bytes with asyncio
streams, through `encode` and `decode`.
"""

from __future__ import annotations

import itertools
import json
import math
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from tapeworks.schemas.report_limits import MAX_FRAME_BYTES, MAX_FRAME_CONTAINERS, MAX_FRAME_ITEMS, MAX_RECORD_BYTES

BUNDLE = "bundle"
"""Where a runner writes its bundle, below the attempt's folder; its frame `certify` names no path."""
HEADER = struct.Struct(">I")
SMALL = frozenset({"record", "checkpoint", "verify"})
"""Types of frames that are parsed while others wait."""
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Of a frame from an agent, which is trusted: a start frame holds the whole spec."""

Message = dict[str, Any]


class FrameError(Exception):
    """The peer sent bytes that are not a frame, or a message is too large for one."""


class InvalidFrame(FrameError):
    """The content of one frame is not what its sender may send; the frames after it can be read."""


class ChannelClosed(ConnectionError):
    """The peer is gone: nothing can be sent and no answer will come."""


def encode(message: Message, *, limit: int = MAX_FRAME_BYTES) -> bytes:
    """The frame of a message, length included.

    Raises FrameError above the limit, TypeError for what JSON cannot hold.
    """
    try:
        body = json.dumps(message, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:
        body = json.dumps(finite(message), allow_nan=False, separators=(",", ":")).encode()
    if len(body) > limit:
        raise FrameError(f"a message of {len(body)} bytes is too large for a frame (limit {limit})")
    return HEADER.pack(len(body)) + body


def finite(value: Any) -> Any:
    """A nest of JSON with its NaN and infinities as strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def decode(body: bytes) -> Message:
    """The message in a frame's body. Raises FrameError where it is not a JSON object."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"the peer sent a frame that is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise FrameError(f"a frame holds a JSON object, not {type(message).__name__}")
    return message


def check_structure(body: bytes) -> None:
    """Raises InvalidFrame for JSON that is dense with containers: parsing time depends on them. Takes microseconds."""
    containers, items = body.count(b"[") + body.count(b"{"), body.count(b",")
    if containers > MAX_FRAME_CONTAINERS or items > MAX_FRAME_ITEMS:
        raise InvalidFrame(
            f"a frame must have at most {MAX_FRAME_CONTAINERS} arrays and objects and {MAX_FRAME_ITEMS} items, "
            f"got {containers} and {items}"
        )


def body_length(header: bytes) -> int:
    """The length that a header from an agent announces, in bytes. Raises FrameError above 64 MiB."""
    (length,) = HEADER.unpack(header)
    if length > MAX_MESSAGE_BYTES:
        raise FrameError(f"the peer announces a frame of {length} bytes (limit {MAX_MESSAGE_BYTES})")
    return int(length)


class Channel:
    """One end of a frame socket. Sending is thread-safe; one thread reads.

    Without `start_reader` the owner reads with `receive`, and `request` reads for itself, keeping
    for `receive` what is not its answer.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sock.setblocking(True)
        self._sending = threading.Lock()
        self._ids = itertools.count(1)
        self._buffer = bytearray()
        self._kept: deque[Message] = deque()
        self._waiting: dict[int, _Waiter] = {}
        self._lock = threading.Lock()
        self._ended = False
        self._reader: threading.Thread | None = None

    def send(self, message: Message) -> None:
        """Send one message. Raises ChannelClosed where the peer is gone, FrameError where the message is too large."""
        frame = encode(message, limit=MAX_RECORD_BYTES if message.get("type") in SMALL else MAX_FRAME_BYTES)
        check_structure(frame)
        with self._sending:
            try:
                self._sock.sendall(frame)
            except OSError as error:
                raise ChannelClosed(f"the peer closed the connection: {error}") from error

    def request(self, message: Message, *, timeout: float | None = None) -> Message:
        """Send a message with an `id` and wait for its answer: `{"reply": id, …}`.

        Raises TimeoutError after `timeout` seconds, ChannelClosed where the peer ends before it answers.
        """
        number = next(self._ids)
        waiter = _Waiter()
        with self._lock:
            if self._ended:
                raise ChannelClosed("the peer closed the connection")
            self._waiting[number] = waiter
        try:
            self.send({**message, "id": number})
            deadline = None if timeout is None else time.monotonic() + timeout
            if self._reader is None:
                self._read_until(waiter, deadline)
            elif not waiter.done.wait(timeout):
                raise TimeoutError(f"no answer to {message.get('type')!r} in {timeout} s")
        finally:
            with self._lock:
                self._waiting.pop(number, None)
        if waiter.answer is None:
            raise ChannelClosed("the peer ended before it responded")
        return waiter.answer

    def receive(self) -> Message | None:
        """The next message that is not an answer; None where the peer has ended. Blocks."""
        if self._kept:
            return self._kept.popleft()
        while (message := self._next(None)) is not None:
            if not self._answered(message):
                return message
        return None

    def start_reader(self, on_message: Callable[[Message], None], on_close: Callable[[], None]) -> None:
        """Read in a daemon thread: `on_message` for each message that is not an answer, `on_close` once at the end."""

        def read() -> None:
            try:
                while (message := self.receive()) is not None:
                    on_message(message)
            finally:
                self._end()
                on_close()

        self._reader = threading.Thread(target=read, name="frames", daemon=True)
        self._reader.start()

    def close(self) -> None:
        """End the connection; the peer and a reader of this end see the end of the stream."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the peer was faster: the socket is not connected any more
        if self._reader is not None and self._reader is not threading.current_thread():
            self._reader.join()
        self._sock.close()
        self._end()

    def _read_until(self, waiter: _Waiter, deadline: float | None) -> None:
        while not waiter.done.is_set():
            message = self._next(deadline)
            if message is None:
                return
            if not self._answered(message):
                self._kept.append(message)

    def _answered(self, message: Message) -> bool:
        """Hand an answer to the request that waits for it; an answer that nobody awaits any more is dropped."""
        if "reply" not in message:
            return False
        with self._lock:
            waiter = self._waiting.get(message["reply"])
        if waiter is not None:
            waiter.answer = message
            waiter.done.set()
        return True

    def _next(self, deadline: float | None) -> Message | None:
        """The next frame. A time-out between two bytes loses nothing: what was read stays in the buffer."""
        while True:
            if len(self._buffer) >= HEADER.size:
                end = HEADER.size + body_length(bytes(self._buffer[: HEADER.size]))
                if len(self._buffer) >= end:
                    body = bytes(self._buffer[HEADER.size : end])
                    del self._buffer[:end]
                    return decode(body)
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([self._sock], [], [], left)[0]:
                    raise TimeoutError("no response in time")
            try:
                chunk = self._sock.recv(1 << 16)
            except ConnectionResetError:
                chunk = b""  # a killed peer with unread bytes: the same as its end
            if not chunk:
                self._end()
                return None
            self._buffer += chunk

    def _end(self) -> None:
        with self._lock:
            self._ended = True
            waiting = list(self._waiting.values())
        for waiter in waiting:
            waiter.done.set()


class _Waiter:
    """A request that waits for its answer."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.answer: Message | None = None
