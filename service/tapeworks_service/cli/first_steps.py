"""What `tapeworks serve` offers somebody who starts it: its page, three things to try, another port."""

from __future__ import annotations

import errno
import shlex
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx
import typer

from tapeworks.client.client import DEFAULT_URL
from tapeworks_service.embedded import bound
from tapeworks_service.settings import StartRefused

_PORTS_TRIED = 100
_ASKED_EVERY_SECONDS = 0.5


def listening_socket(host: str, port: int, command: Callable[[int], str]) -> socket.socket:
    """A listening socket. Raises `StartRefused`; of a port that is in use it names the next free one.

    `command`: the command line with another port.
    """
    try:
        return bound(host, port)
    except StartRefused as refused:
        taken = isinstance(refused.__cause__, OSError) and refused.__cause__.errno == errno.EADDRINUSE
        free = _next_free(host, port) if taken else None
        if free is None:
            raise
        raise StartRefused(f"port {port} of {host} is in use, port {free} is free: {command(free)}") from refused


def _next_free(host: str, port: int) -> int | None:
    for candidate in range(port + 1, min(port + _PORTS_TRIED, 65535) + 1):
        try:
            bound(host, candidate).close()
        except StartRefused:
            continue
        return candidate
    return None


def command_with(options: Mapping[str, Any], port: int) -> str:
    """`tapeworks serve` with options as they were given (option → value) and another port, for a shell."""
    words = ["tapeworks", "serve"]
    for option, value in {**options, "--port": port}.items():
        if value is True:
            words.append(option)
        elif value not in (None, False):
            values: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
            words += [word for one in values for word in (option, str(one))]
    return shlex.join(words)


def introduce(url: str, open_when: str | None, stopped: threading.Event) -> None:
    """Greet a terminal; `open_when`: open the page as soon as this path answers 200."""
    if sys.stdout.isatty():
        typer.echo(greeting(url))
    if open_when is not None:
        open_page_when(url, open_when, stopped)


def greeting(url: str) -> str:
    """What a terminal shows once the server listens."""
    there = "" if url == DEFAULT_URL else f" --url {url}"
    return "\n".join(
        [
            f"The page: {url}",
            "In another terminal, try:",
            f"  tapeworks example standard/sequential && tapeworks{there} submit sequential.json --watch",
            f"  tapeworks{there} jobs --where 'loss<1' --sort loss",
            "  tapeworks init my-project      a job, its data and a loss of your own",
        ]
    )


def open_page_when(url: str, path: str, stopped: threading.Event) -> threading.Thread:
    """A thread that opens the page in a browser as soon as `path` answers 200; it ends when the server stops."""

    def wait() -> None:
        with httpx.Client(base_url=url, timeout=10, trust_env=False) as client:
            while not stopped.wait(_ASKED_EVERY_SECONDS):
                try:
                    ready = client.get(path).status_code == 200
                except httpx.TransportError:
                    continue
                if ready:
                    if not webbrowser.open(url):
                        typer.echo(f"no browser was found: open {url}", err=True)
                    return

    thread = threading.Thread(target=wait, name="open the page", daemon=True)
    thread.start()
    return thread
