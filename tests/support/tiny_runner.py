"""Small real targets for the processes that a launcher starts: what a runner or a verifier sees there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import Any

from tapeworks_workers.processes.frames import Channel


def main(sock: socket.socket) -> None:
    """Answer each message with what this process is; `spawn` starts a child, `exit` ends with a status."""
    channel = Channel(sock)
    while (message := channel.receive()) is not None:
        if message["type"] == "exit":
            sys.exit(message["status"])
        told = {"type": "told", **about()}
        if message["type"] == "spawn":
            told["spawned"] = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE).pid
        if message["type"] == "compute":
            import tensorflow as tf

            told["sum"] = float(tf.reduce_sum(tf.ones((3, 3))))
        sys.stdout.write("a line\n")
        sys.stdout.flush()
        channel.send(told)


def about() -> dict[str, Any]:
    """This process: its place in the tree, environment, folder, and whether Tapeworks can be imported."""
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "session": os.getsid(0),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
    }


def catalogue(part: str, **_: Any) -> Any:
    """The registry without admission: what was loaded and what was refused, of which nothing is shipped."""
    from tapeworks.components.registry import registry
    from tapeworks.schemas.worker_protocol import Catalogue

    if part == "shipped":
        return Catalogue(components=[])
    components = [one.entry() for one in registry if one.module.startswith("own_")]
    return Catalogue(components=components, refused=list(registry.refused))
