"""Frames over a real socket pair: order, answers, limits, ends."""

from __future__ import annotations

import math
import queue
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from tapeworks_workers.processes import frames
from tapeworks_workers.processes.frames import Channel, ChannelClosed, FrameError


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    left, right = socket.socketpair()
    channels = Channel(left), Channel(right)
    yield channels
    for channel in channels:
        channel.close()


def test_messages_arrive_in_order_and_whole(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    sent = [{"n": n, "text": "ü" * n * 1000} for n in range(40)]
    received: queue.Queue[dict[str, object] | None] = queue.Queue()
    theirs.start_reader(received.put, lambda: received.put(None))
    for message in sent:
        ours.send(message)
    ours.close()
    assert [received.get(timeout=10) for _ in sent] == sent
    assert received.get(timeout=10) is None


def test_many_threads_send_without_mixing_frames(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    threads = [
        threading.Thread(target=lambda k=k: [ours.send({"k": k, "pad": "x" * 5000}) for _ in range(50)])
        for k in range(8)
    ]
    for thread in threads:
        thread.start()
    counts = [0] * 8
    for _ in range(400):
        message = theirs.receive()
        assert message is not None
        counts[message["k"]] += 1
    for thread in threads:
        thread.join()
    assert counts == [50] * 8


def test_numbers_that_are_not_finite_travel_as_text(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    ours.send({"values": {"loss": math.nan, "more": [math.inf, -math.inf, 1.5]}})
    assert theirs.receive() == {"values": {"loss": "NaN", "more": ["Infinity", "-Infinity", 1.5]}}


def test_a_request_without_a_reader_keeps_other_messages(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair

    def answer() -> None:
        request = theirs.receive()
        assert request is not None
        theirs.send({"type": "command", "command": "cancel"})
        theirs.send({"reply": request["id"], "ok": True})

    thread = threading.Thread(target=answer)
    thread.start()
    assert ours.request({"type": "verify"}, timeout=10)["ok"] is True
    thread.join()
    assert ours.receive() == {"type": "command", "command": "cancel"}


def test_requests_with_a_reader_get_each_their_own_answer(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    ours.start_reader(lambda message: None, lambda: None)
    requests: queue.Queue[dict[str, int]] = queue.Queue()
    theirs.start_reader(requests.put, lambda: None)
    answers: dict[int, dict[str, int]] = {}
    threads = [
        threading.Thread(target=lambda k=k: answers.update({k: ours.request({"k": k}, timeout=10)})) for k in range(5)
    ]
    for thread in threads:
        thread.start()
    got = [requests.get(timeout=10) for _ in threads]
    for message in reversed(got):
        theirs.send({"reply": message["id"], "k": message["k"]})
    for thread in threads:
        thread.join()
    assert {k: answer["k"] for k, answer in answers.items()} == {k: k for k in range(5)}


@pytest.mark.parametrize("reader", [True, False])
def test_a_request_ends_with_its_peer_and_with_its_time(pair: tuple[Channel, Channel], reader: bool) -> None:
    ours, theirs = pair
    if reader:
        ours.start_reader(lambda message: None, lambda: None)
    with pytest.raises(TimeoutError):
        ours.request({"type": "verify"}, timeout=0.05)
    closer = threading.Timer(0.05, theirs.close)
    closer.start()
    with pytest.raises(ChannelClosed):
        ours.request({"type": "verify"}, timeout=10)
    closer.join()
    with pytest.raises(ChannelClosed):
        ours.request({"type": "verify"})


def test_a_late_answer_is_dropped_and_a_partial_frame_is_the_end() -> None:
    left, right = socket.socketpair()
    ours = Channel(left)
    right.sendall(frames.encode({"reply": 77}) + frames.encode({"type": "start"}) + struct.pack(">I", 100) + b"{")
    assert ours.receive() == {"type": "start"}
    right.close()
    assert ours.receive() is None
    ours.close()


@pytest.mark.parametrize(
    "wire", [struct.pack(">I", 2**31), struct.pack(">I", 2) + b"[]", struct.pack(">I", 3) + b"{{{"]
)
def test_what_is_no_frame_is_refused(wire: bytes) -> None:
    left, right = socket.socketpair()
    right.sendall(wire)
    with pytest.raises(FrameError):
        Channel(left).receive()
    left.close()
    right.close()


def test_a_message_too_large_is_refused_before_it_is_sent(pair: tuple[Channel, Channel]) -> None:
    with pytest.raises(FrameError, match="too large"):
        pair[0].send({"text": "x" * (frames.MAX_FRAME_BYTES + 1)})


def test_what_an_agent_would_refuse_is_not_sent(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    for large in ({"type": "record", "text": "x" * 300_000}, {"type": "finish", "rows": [[]] * 40_000}):
        with pytest.raises(FrameError):
            ours.send(large)
    received: queue.Queue[dict[str, str] | None] = queue.Queue()
    theirs.start_reader(received.put, lambda: received.put(None))
    ours.send({"type": "finish", "text": "x" * 300_000})
    message = received.get(timeout=10)
    assert message is not None
    assert len(message["text"]) == 300_000
