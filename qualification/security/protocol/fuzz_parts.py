"""Speaks the protocol between a sandbox and its agent wrongly: frames of a runner, and a zygote's answers to forks.

`protocol_fuzzer.py` uploads this file with another ZYGOTE_SEED for each try. 0: the zygote answers as it should.
What a job sends follows from the seed of its config alone.
"""

import json
import os
import random
import socket
import stat
import struct
import sys
import tempfile
import time

from tapeworks import Source, component

ZYGOTE_SEED = 0
STAY_SECONDS = 15
"""Longer than an agent waits for a runner that has said its last word."""

STRANGE = [
    None, True, 0, -1, 2**63, 10**400, 1e308, float("nan"), float("inf"), "", "\0", "a" * 70_000, "../../etc/passwd",
    "/etc/passwd", "\ud800", "\x1b[2J", [], {}, [[]], {"": {}}, [None] * 3000, {str(n): n for n in range(3000)},
]  # fmt: skip
STATES = ["starting", "running", "exporting", "verifying", "succeeded", "failed", "nonsense"]
FRAMES = [
    {"type": "record", "record": {"record": "log", "stream": "stdout", "text": "a line"}},
    {"type": "record", "record": {"record": "state", "state": "running", "phase": "training"}},
    {"type": "record", "record": {"record": "state", "state": "exporting", "phase": None}},
    {"type": "record", "record": {"record": "event", "type": "note", "data": {"message": "a note"}}},
    {"type": "record", "record": {"record": "metrics", "step": 1, "epoch": 1, "values": {"loss": 1.0}}},
    {"type": "record", "record": {"record": "facts", "progress": {"step": 1, "epoch": 0}}},
    {"type": "checkpoint", "path": "left", "step": 1, "epoch": 1, "metrics": {"loss": 1.0}, "best": True},
    {"type": "finish", "outcome": "succeeded", "failure": None, "files": ["left"],
     "published": {"bundle": None, "parts": {}, "formats": [], "verified": {}, "result": None}},
    {"type": "command", "command": "cancel"},
    {"reply": 1, "ok": True},
]  # fmt: skip
VERIFY = {"type": "verify", "verifier": "reload", "bundle": "bundle", "id": 1}


@component("fuzz/Speak")
class Speak(Source):
    """Says wrong things to the agent, then gives a few rows, if its process still lives."""

    def __init__(self, seed: int = 0):
        self.seed = seed

    def dataset(self):
        import tensorflow as tf

        if self.seed:
            speak(random.Random(self.seed))
        return tf.data.Dataset.from_tensor_slices((tf.zeros((8, 2)), tf.zeros(8, tf.int64)))


# ── frames ───────────────────────────────────────────────────────────────────────────────────────


def speak(chance):
    """Frames that could be read, with wrong contents; then one end of several."""
    with open("left", "w") as file:
        file.write("left by the fuzzer")
    channel = the_channel()
    verified = 0
    for _ in range(chance.randrange(40)):
        message = chance.choice(FRAMES)
        if verified < 2 and chance.random() < 0.05:
            verified, message = verified + 1, VERIFY
        if message.get("type") == "finish" and chance.random() < 0.8:
            continue
        send(chance, channel, framed(mutated(chance, message)))
    ending = chance.choice(ENDINGS)
    print(f"the fuzzer ends with {ending.__name__}", flush=True)
    ending(chance, channel)


def the_channel():
    """The runner's frame socket: the one stream socket of the process."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if stat.S_ISSOCK(os.stat(int(name)).st_mode):
                found = socket.socket(fileno=os.dup(int(name)))
                if found.family == socket.AF_UNIX and found.type == socket.SOCK_STREAM:
                    return found
        except OSError:
            continue
    raise RuntimeError("no channel")


def mutated(chance, value, depth=0):
    """The value with some parts replaced, removed, added or nested."""
    if chance.random() < (0.02 if depth == 0 else 0.12):
        return chance.choice(STRANGE)
    if isinstance(value, dict):
        changed = {key: mutated(chance, item, depth + 1) for key, item in value.items() if chance.random() > 0.05}
        if chance.random() < 0.1:
            changed[chance.choice(["id", "type", "record", "more", ""])] = chance.choice(STRANGE)
        return changed
    if value in STATES and chance.random() < 0.3:
        return chance.choice(STATES)
    return value


def framed(message):
    body = json.dumps(message).encode()
    return struct.pack(">I", len(body)) + body


def send(chance, channel, data):
    """At once, in pieces, with pauses, or with descriptors that nobody asked for."""
    how = chance.random()
    if how < 0.1:
        for at in range(0, min(len(data), 400)):
            channel.sendall(data[at : at + 1])
        channel.sendall(data[400:])
    elif how < 0.2:
        half = len(data) // 2
        channel.sendall(data[:half])
        time.sleep(chance.random() / 5)
        channel.sendall(data[half:])
    elif how < 0.3:
        socket.send_fds(channel, [data], [0, 1, 2])
    else:
        channel.sendall(data)


def too_long(chance, channel):
    channel.sendall(struct.pack(">I", chance.choice([2**32 - 1, 2**31, 2**26 + 1])) + b"{}")


def cut_off(chance, channel):
    channel.sendall(struct.pack(">I", 1000) + b"{")
    os._exit(chance.randrange(3))


def no_json(chance, channel):
    body = chance.choice(
        [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000, chance.randbytes(999)]
    )
    channel.sendall(struct.pack(">I", len(body)) + body)


def noise(chance, channel):
    channel.sendall(chance.randbytes(chance.randrange(1, 100_000)))


def flood(chance, channel):
    message = framed(mutated(chance, chance.choice(FRAMES[:6])))
    for _ in range(min(2000, (8 << 20) // len(message))):
        channel.sendall(message)


def flood_output(chance, channel):
    for _ in range(200):
        os.write(chance.choice([1, 2]), chance.choice([b"\0" * 9000, b"a\n" * 5000, chance.randbytes(9000)]))


def close_and_stay(chance, channel):
    channel.shutdown(chance.choice([socket.SHUT_WR, socket.SHUT_RDWR]))
    time.sleep(STAY_SECONDS)


def read_nothing(chance, channel):
    for _ in range(50):
        channel.sendall(framed({"type": "verify", "verifier": "none", "bundle": "x" * 1000, "id": 1}))
    time.sleep(STAY_SECONDS)


def finish_and_stay(chance, channel):
    channel.sendall(framed(mutated(chance, FRAMES[7], 1)))
    time.sleep(STAY_SECONDS)


def end(chance, channel):
    os.kill(os.getpid(), chance.choice([6, 9, 11, 15]))
    time.sleep(STAY_SECONDS)


def go_on(chance, channel):
    return None


ENDINGS = [
    too_long, cut_off, no_json, noise, flood, flood_output, close_and_stay, read_nothing, finish_and_stay, end, go_on,
]  # fmt: skip


# ── answers of the zygote ────────────────────────────────────────────────────────────────────────


def answer_wrongly(chance, base):
    """From the second fork on, some answers are others than what was asked for."""
    forked = base._fork_twice
    count = 0

    def answered(request, descriptors, control, lifeline):
        nonlocal count
        count += 1
        pid, passed = forked(request, descriptors, control, lifeline)
        if count < 2 or chance.random() < 0.2:
            return pid, passed
        time.sleep(chance.choice([0, 0, 0.5]))
        wrong = chance.choice(["fewer", "more", "other", "swapped", "twice", "noise", "deep", "ends", "number"])
        left, _right = socket.socketpair()
        left.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 20)
        other = [
            left.detach(),
            os.open(tempfile.mkstemp()[1], os.O_RDONLY),
            os.pidfd_open(1),
            os.pidfd_open(os.getpid()),
        ]
        if wrong == "fewer":
            return pid, passed[: chance.randrange(2)]
        if wrong == "more":
            return pid, [*passed, *other, *other]
        if wrong == "other":
            return pid, [chance.choice([*passed, *other]), chance.choice(other)]
        if wrong == "swapped":
            return pid, passed[::-1]
        if wrong == "twice":
            control.send(json.dumps({"pid": pid}).encode())
        if wrong == "noise":
            control.send(chance.randbytes(1000))
        if wrong == "deep":
            control.send(b"[" * 100_000)
        if wrong == "ends":
            os._exit(chance.randrange(3))
        if wrong == "number":
            return chance.choice([1, -1, 0, 2**40, os.getpid(), "x", None, [], 1e300]), []
        return pid, passed

    base._fork_twice = answered


if ZYGOTE_SEED and "tapeworks_workers.processes.base_zygote" in sys.modules:
    answer_wrongly(random.Random(ZYGOTE_SEED), sys.modules["tapeworks_workers.processes.base_zygote"])
