"""A runner that does what the job's name says: the awkward things that a real one seldom does."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any

from tapeworks_workers.processes.frames import Channel


def main(sock: socket.socket) -> None:
    """Receive the start frame and act."""
    channel = Channel(sock)
    start = channel.receive()
    assert start is not None
    ACTS[start["lease"]["spec"]["name"]](channel, start)


def finish(channel: Channel, outcome: str = "succeeded", **parts: Any) -> None:
    channel.send({"type": "finish", "outcome": outcome, **parts})


def crash(channel: Channel, start: dict[str, Any]) -> None:
    sys.stderr.write("the last words\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGSEGV)


def leave(channel: Channel, start: dict[str, Any]) -> None:
    sys.exit(3)


def garbage(channel: Channel, start: dict[str, Any]) -> None:
    channel.send({"type": "record", "record": {"record": "metric", "step": "one"}})
    channel.send({"type": "record", "record": {"record": "state", "state": "running"}})
    channel.send({"type": "nonsense"})
    (Path(start["folder"]) / "real.txt").write_text("real")
    (Path(start["folder"]) / "link.txt").symlink_to("/etc/hostname")
    finish(channel, files=["real.txt", "link.txt"], metrics={"loss": float("nan")})


def forge(channel: Channel, start: dict[str, Any]) -> None:
    """Say that something was verified which is no model."""
    (Path(start["folder"]) / "model.tar.gz").write_text("this is no model at all")
    verified = {"reload": {"bit_equal": True}}
    published = {"bundle": "model.tar.gz", "formats": ["keras"], "verified": verified}
    finish(channel, published=published, files=["model.tar.gz"])


def escape(channel: Channel, start: dict[str, Any]) -> None:
    """Export a bundle with a link out of the folder."""
    bundle = Path(start["folder"]) / "bundle"
    bundle.mkdir()
    (bundle / "manifest.json").symlink_to("../../records.jsonl")
    certify(channel)


def certify(channel: Channel) -> None:
    """Ask for the verification, and tell what came of it, whatever that was."""
    answer = channel.request({"type": "certify"}, timeout=120)
    data = {"message": "verified" if answer["ok"] else answer["failure"]["message"]}
    channel.send({"type": "record", "record": {"record": "event", "type": "note", "data": data}})
    finish(channel)


def exports(channel: Channel, start: dict[str, Any]) -> None:
    """Hand over a bundle that lies elsewhere."""
    channel.send({"type": "record", "record": {"record": "state", "state": "running"}})
    shutil.copytree(start["lease"]["spec"]["labels"]["bundle"], Path(start["folder"]) / "bundle")
    certify(channel)


def swaps(channel: Channel, start: dict[str, Any]) -> None:
    """Change the bundle, and everything else that can be written, once it is verified."""
    bundle = Path(start["folder"]) / "bundle"
    shutil.copytree(start["lease"]["spec"]["labels"]["bundle"], bundle)
    answer = channel.request({"type": "certify"}, timeout=120)
    assert answer["ok"], answer
    for file in Path(start["folder"]).rglob("*"):
        if file.is_file():
            file.write_text("this is no model at all")
    finish(channel, published={"bundle": "bundle/load.py", "verified": {}})


def deaf(channel: Channel, start: dict[str, Any]) -> None:
    channel.send({"type": "record", "record": {"record": "state", "state": "running"}})
    signal.pause()


def exporting(channel: Channel, start: dict[str, Any]) -> None:
    for state in ("running", "exporting"):
        channel.send({"type": "record", "record": {"record": "state", "state": state}})
    signal.pause()


def verify(channel: Channel, start: dict[str, Any]) -> None:
    answers = [
        channel.request({"type": "verify", "verifier": verifier, "bundle": bundle}, timeout=120)
        for verifier, bundle in (("resume", "absent"), ("reload", "absent"), ("resume", "../.."))
    ]
    data = {"messages": [answer["failure"]["message"] for answer in answers]}
    channel.send({"type": "record", "record": {"record": "event", "type": "note", "data": data}})
    finish(channel)


def checkpoints(channel: Channel, start: dict[str, Any]) -> None:
    if start["lease"]["attempt"] > 1:
        data = {"resumes": [{"step": one["step"], "bytes": Path(one["path"]).read_text()} for one in start["resume"]]}
        channel.send({"type": "record", "record": {"record": "event", "type": "note", "data": data}})
        return finish(channel)
    for step in (1, 2):
        path = Path(start["folder"]) / f"step{step}.tar"
        path.write_text(f"the state at step {step}")
        channel.send({"type": "checkpoint", "path": path.name, "step": step, "epoch": 0, "metrics": {}, "best": False})
    command = channel.receive()  # until the agent drains: it has opened the files
    for step in (1, 2):
        (Path(start["folder"]) / f"step{step}.tar").unlink()
    assert command == {"type": "command", "command": "drain"}
    return finish(channel, "released")


def goes_on(channel: Channel, start: dict[str, Any]) -> None:
    bytes_of = [{**one, "bytes": (Path(start["folder"]) / one["path"]).read_text()} for one in start["inputs"]]
    channel.send({"type": "record", "record": {"record": "event", "type": "note", "data": {"inputs": bytes_of}}})
    finish(channel)


def inspects(channel: Channel, start: dict[str, Any]) -> None:
    channel.send({"type": "record", "record": {"record": "state", "state": "running"}})
    result = {"kind": start["lease"]["kind"], "traces": 1}
    finish(channel, result=result)


def flood(channel: Channel, start: dict[str, Any]) -> None:
    sys.stdout.write("".join(f"line {n}\n" for n in range(20_000)))
    sys.stdout.flush()
    finish(channel)


def event(channel: Channel, message: str) -> None:
    channel.send({"type": "record", "record": {"record": "event", "type": "note", "data": {"message": message}}})


def announces_a_huge_frame(channel: Channel, start: dict[str, Any]) -> None:
    channel._sock.sendall(struct.pack(">I", 60 << 20) + b"[" * (2 << 20))
    signal.pause()


def sends_what_is_no_frame(channel: Channel, start: dict[str, Any]) -> None:
    bodies = (
        b"", b"[]", b"{}", b"\xff", b"[" * 50_000, b'{"type": "record", "record": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"type": "checkpoint", "path": "a.tar", "step": "many", "epoch": 0}',
        b'{"type": "verify", "id": {}, "verifier": [], "bundle": null}',
        b'{"type": "record", "record": {"record": "state", "state": {}, "phase": []}}',
        b'{"type": "record", "record": {"record": "event", "type": "note", "data": {"a": [%s1]}}}' % (b"[]," * 80_000),
        b'{"type": "record", "record": {"record": "event", "type": "note", "data": {"a": "%s"}}}' % (b"x" * 300_000),
    )  # fmt: skip
    for body in bodies:
        channel._sock.sendall(struct.pack(">I", len(body)) + body)
    finish(channel)


def floods_with_events(channel: Channel, start: dict[str, Any]) -> None:
    for number in range(100_000):
        event(channel, f"event {number}")
    finish(channel)


def floods_with_bytes(channel: Channel, start: dict[str, Any]) -> None:
    for _ in range(10_000):
        event(channel, "x" * 200_000)
    finish(channel)


def floods_with_points(channel: Channel, start: dict[str, Any]) -> None:
    for step in range(1, 501):
        channel.send({"type": "record", "record": {"record": "metric", "step": step, "values": {"loss": 1.0}}})
        print(f"line {step}", flush=True)  # noqa: T201 — a log line of the job
    event(channel, "the last one")
    finish(channel)


def floods_with_checkpoints(channel: Channel, start: dict[str, Any]) -> None:
    for step in range(1, 301):
        path = Path(start["folder"]) / f"step{step}.tar"
        path.write_text(f"the state at step {step}")
        best = step == 100
        channel.send({"type": "checkpoint", "path": path.name, "step": step, "epoch": 0, "metrics": {}, "best": best})
    finish(channel)


def floods_with_verifications(channel: Channel, start: dict[str, Any]) -> None:
    for number in range(1, 50):
        channel.send({"type": "verify", "id": number, "verifier": "other", "bundle": "absent"})
    signal.pause()


def stays_after_its_finish(channel: Channel, start: dict[str, Any]) -> None:
    finish(channel)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE, signal.SIGTERM})
    signal.pause()


def takes_memory(channel: Channel, start: dict[str, Any]) -> None:
    """In a process that it starts, too."""
    taken = [bytearray(b"x") * (100 << 20)]
    if os.fork() == 0:
        taken.append(bytearray(b"y") * (200 << 20))
    signal.pause()


ACTS = {
    "takes_memory": takes_memory,
    "announces_a_huge_frame": announces_a_huge_frame,
    "sends_what_is_no_frame": sends_what_is_no_frame,
    "floods_with_events": floods_with_events,
    "floods_with_bytes": floods_with_bytes,
    "floods_with_points": floods_with_points,
    "floods_with_checkpoints": floods_with_checkpoints,
    "floods_with_verifications": floods_with_verifications,
    "stays_after_its_finish": stays_after_its_finish,
    "crash": crash,
    "leave": leave,
    "garbage": garbage,
    "escape": escape,
    "deaf": deaf,
    "exporting": exporting,
    "verify": verify,
    "checkpoints": checkpoints,
    "flood": flood,
    "forge": forge,
    "exports": exports,
    "swaps": swaps,
    "goes_on": goes_on,
    "inspects": inspects,
}


def catalogue() -> Any:
    """No components: these tests register a catalogue of their own."""
    from tapeworks.schemas.worker_protocol import Catalogue

    return Catalogue(components=[])
