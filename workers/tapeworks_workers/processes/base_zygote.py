"""The base zygote: a process that imported TensorFlow and Keras, ran nothing, and forks.

Run by path: `python -I base.py serve …`. It knows nothing of Tapeworks: verifiers are forked from
it directly, so their Keras registry is empty and Tapeworks can be barred; the component zygote is
forked from it too and serves with this file's `serve`. `python -I base.py once …` does the work of
one fork in a plain process. The TensorFlow runtime is never initialised here: a forked child makes
its own, on the devices that its environment names.

A request is one datagram on a Unix socket: JSON, and three descriptors (socket, stdout, stderr)::

    {"target": "module:function" | "/path/file.py:function",
     "arguments": {…},       keyword arguments of the function
     "frame": false,         true: its result is sent as one frame; false: it is given the socket first
     "held": false,          true, with `frame`: everything is imported, then a byte on the socket is awaited
    "bar": false,           true: tapeworks* cannot be imported
     "serves": false,        true: the function forks too, and is given the lifeline
     "path": [], "environment": {}, "folder": null}

The answer is `{"pid": n}` or `{"error": "…"}`. Every child is forked twice, so that the agent, a
subreaper, becomes its parent: it outlives its zygote. It dies with the agent by PR_SET_PDEATHSIG,
set when the agent is its parent already, and by the end of the lifeline pipe that all inherit.

In a sandbox (`--confine`) the agent is not in reach: what was forked in between stays as the parent and writes
the exit status into a pipe, and the answer brings two descriptors, a pidfd of the child and that pipe's other end.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import importlib.util
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
CLONE_NEWIPC = 0x08000000
CLONE_NEWNET = 0x40000000
BARRIER = Path(__file__).with_name("import_barrier.py")
MAX_REQUEST_BYTES = 1 << 17
TAIL_LINES = 30

Request = dict[str, Any]


@dataclass(frozen=True)
class DeathPipe:
    """What ties a process to its agent: its parent's pid, and a pipe whose other end only the agent holds."""

    agent: int
    """The agent itself, or whoever stands for it in a sandbox."""
    pipe: int
    guest: bool = False
    """Whether it is in a sandbox."""


# ── serving ──────────────────────────────────────────────────────────────────────────────────────


def serve(control: socket.socket, lifeline: DeathPipe) -> None:
    """Answer fork requests until the agent closes its end, or dies."""
    gc.collect()
    gc.freeze()  # a collection in a child would otherwise copy every page of the zygote
    if lifeline.guest:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those in between end when their children do
    while True:
        readable, _, _ = select.select([control.fileno(), lifeline.pipe], [], [])
        if lifeline.pipe in readable:
            os._exit(0)
        data, descriptors, _, _ = socket.recv_fds(control, MAX_REQUEST_BYTES, 3)
        if not data:
            return
        answer: dict[str, Any]
        sent: list[int] = []
        try:
            pid, sent = _fork_twice(json.loads(data), descriptors, control, lifeline)
            answer = {"pid": pid}
        except (OSError, ValueError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        try:
            socket.send_fds(control, [json.dumps(answer).encode()], sent)
        except OSError:
            return  # the agent replaced this zygote while it forked
        finally:
            for descriptor in sent:
                os.close(descriptor)


def _fork_twice(
    request: Request, descriptors: Sequence[int], control: socket.socket, lifeline: DeathPipe
) -> tuple[int, list[int]]:
    """Fork a grandchild; its pid, and in a sandbox a pidfd of it and where its status will be read.

    It waits until its parent between is gone: only then is it the agent's. In a sandbox that one stays.
    """
    go_out, go_in = os.pipe()
    pid_out, pid_in = os.pipe()
    status_pipe = list(os.pipe()) if lifeline.guest else []
    between = os.fork()
    if between == 0:
        if lifeline.guest:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            lifeline = replace(lifeline, agent=os.getpid())
        try:
            child = os.fork()
        except OSError:
            os._exit(1)
        if child:
            os.write(pid_in, str(child).encode())
            if lifeline.guest:
                for descriptor in (go_out, go_in, pid_out, pid_in, status_pipe[0], *descriptors):
                    os.close(descriptor)
                control.close()
                _, status = os.waitpid(child, 0)
                with suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)  # what it started goes with it
                os.write(status_pipe[1], str(os.waitstatus_to_exitcode(status)).encode())
            os._exit(0)
        for descriptor in (go_in, pid_in, pid_out, *status_pipe):
            os.close(descriptor)
        control.close()
        if os.read(go_out, 1) != b"g":
            os._exit(0)  # the zygote died before it could tell the agent of this child
        os.close(go_out)
        run(request, descriptors, lifeline)
    try:
        os.close(pid_in)
        pid = os.read(pid_out, 20)
        if not lifeline.guest:
            os.waitpid(between, 0)
        if not pid:
            raise OSError("the process could not be forked")
        if lifeline.guest:
            status_pipe[:] = [os.pidfd_open(int(pid)), status_pipe[0], status_pipe[1]]
            os.close(status_pipe.pop())
        os.write(go_in, b"g")
        return int(pid), status_pipe
    except OSError:
        for descriptor in status_pipe:
            os.close(descriptor)
        raise
    finally:
        for descriptor in (go_out, go_in, pid_out):
            os.close(descriptor)


# ── in the child ─────────────────────────────────────────────────────────────────────────────────


def run(request: Request, descriptors: Sequence[int], lifeline: DeathPipe) -> None:
    """Do what the request says in this process, and end it."""
    status = 1
    try:
        if os.getsid(0) != os.getpid():
            os.setsid()
        hold(lifeline)
        sock = _take_over(request, descriptors)
        threading.Thread(target=_watch, args=(lifeline.pipe,), name="lifeline", daemon=True).start()
        if request.get("bar"):
            resolve(f"{BARRIER}:bar")()
        sys.path.extend(entry for entry in request.get("path", []) if entry not in sys.path)
        if request.get("frame"):
            _send(sock, _result(request, sock))
        else:
            arguments = dict(request.get("arguments", {}))
            if request.get("serves"):
                arguments["lifeline"] = lifeline
            resolve(request["target"])(sock, **arguments)
        status = 0
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)  # what the zygote registered for its own end is not the child's


def confine(terms: Request) -> None:
    """Give up, for good, what code of strangers must not have: `limits` (RLIMIT_… → value), the network where no
    sandbox took it (`unshare`), this user (`uid`, as root only), system calls (`seccomp`), and every way back."""
    for name, value in terms["limits"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    with open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")  # before anything else, where the machine runs out of memory
    libc = ctypes.CDLL(None, use_errno=True)
    if terms["unshare"]:
        _called(libc.unshare(CLONE_NEWNET | CLONE_NEWIPC), "unshare")
    if terms["uid"] is not None:
        os.setgroups([])
        os.setresgid(terms["uid"], terms["uid"], terms["uid"])
        os.setresuid(terms["uid"], terms["uid"], terms["uid"])
        _called(libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "PR_SET_DUMPABLE")  # or /proc/self is closed to itself
    _called(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")
    if terms.get("seccomp"):
        program = bytes.fromhex(terms["seccomp"])
        rules = ctypes.create_string_buffer(program, len(program))
        filtered = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(rules))  # struct sock_fprog
        _called(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filtered, 0, 0), "PR_SET_SECCOMP")


def _called(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def hold(lifeline: DeathPipe) -> None:
    """Let the kernel kill this process when its agent dies; end it at once where the agent is dead already."""
    libc = ctypes.CDLL(None, use_errno=True)
    _called(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "PR_SET_PDEATHSIG")
    if os.getppid() != lifeline.agent:
        os._exit(1)


def _watch(pipe: int) -> None:
    """The second lifeline: nothing is ever written to the pipe, so that it becomes readable is its end."""
    os.read(pipe, 1)
    os.kill(os.getpid(), signal.SIGKILL)


def _take_over(request: Request, descriptors: Sequence[int]) -> socket.socket:
    channel, stdout, stderr = descriptors
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.close(stdout)
    os.close(stderr)
    os.environ.update(request.get("environment", {}))
    if request.get("folder"):
        os.chdir(request["folder"])
    return socket.socket(fileno=channel)


def resolve(target: str) -> Callable[..., Any]:
    """The function that `module:function` or `/path/file.py:function` names."""
    place, _, name = target.rpartition(":")
    if not place.endswith(".py"):
        return getattr(importlib.import_module(place), name)
    module_name = Path(place).stem
    module = sys.modules.get(module_name)
    if module is None or getattr(module, "__file__", None) != place:
        spec = importlib.util.spec_from_file_location(module_name, place)
        if spec is None or spec.loader is None:
            raise ImportError(f"{place} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        spec.loader.exec_module(module)
    return getattr(module, name)


# ── a result as one frame ────────────────────────────────────────────────────────────────────────


def _result(request: Request, sock: socket.socket) -> dict[str, Any]:
    """`{"ok": true, "report": …}`, or `{"ok": false, "failure": {code, message, …}}` of what was raised."""
    try:
        function = resolve(request["target"])
        if request.get("held") and not sock.recv(1):
            sys.exit()  # nobody wants it any more
        report = function(**request.get("arguments", {}))
    except Exception as error:
        traceback.print_exc()
        return {"ok": False, "failure": failure_of(error)}
    if isinstance(report, dict) and isinstance(report.get("failure"), dict):
        return {"ok": False, "failure": report["failure"]}
    return {"ok": True, "report": report}


def failure_of(error: Exception) -> dict[str, Any]:
    """An exception as a failure document; one with a `code` (JobFailure) says it itself."""
    tail = "".join(traceback.format_exception(error)).splitlines()[-TAIL_LINES:]
    failure: dict[str, Any] = {"traceback_tail": "\n".join(tail)}
    code = getattr(error, "code", None)
    if not isinstance(code, str):
        return {"code": "internal", "message": f"{type(error).__name__}: {error}", "retryable": False, **failure}
    failure |= {"code": str(code), "message": getattr(error, "message", str(error))}
    failure |= {name: getattr(error, name) for name in ("hint", "retryable") if hasattr(error, name)}
    location = getattr(error, "location", None)
    if location is not None:
        failure["location"] = {name: getattr(location, name, None) for name in ("file", "line", "component")}
    return failure


def _send(sock: socket.socket, message: dict[str, Any]) -> None:
    body = json.dumps(message, default=str).encode()
    sock.sendall(struct.pack(">I", len(body)) + body)


# ── start ────────────────────────────────────────────────────────────────────────────────────────


def import_tensorflow() -> dict[str, str]:
    """Import TensorFlow and Keras; their versions."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.pop("TF_USE_LEGACY_KERAS", None)
    import keras
    import tensorflow as tf

    return {"python": sys.version.split()[0], "tensorflow": str(tf.__version__), "keras": str(keras.__version__)}


def runtime_initialized() -> bool:
    """Whether this process has made a TensorFlow runtime, and so can no longer be forked."""
    from tensorflow.python.eager import context  # type: ignore[import-untyped,unused-ignore]

    current = context.context_safe()
    return current is not None and current._context_handle is not None


def main(arguments: Sequence[str]) -> None:
    """`serve CONTROL_FD` or `once REQUEST_JSON FD FD FD`, with the agent's pid and the lifeline's descriptor."""
    parser = argparse.ArgumentParser(prog="base.py")
    parser.add_argument("--agent", type=int, required=True)
    parser.add_argument("--lifeline", type=int, required=True)
    parser.add_argument("--confine", type=json.loads)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve").add_argument("control", type=int)
    once = commands.add_parser("once")
    once.add_argument("request", type=json.loads)
    once.add_argument("descriptors", type=int, nargs=3)
    options = parser.parse_args(arguments)
    lifeline = DeathPipe(agent=options.agent, pipe=options.lifeline, guest=options.confine is not None)
    if options.confine is not None:
        confine(options.confine)  # before `hold`: a change of user clears what it sets
    hold(lifeline)
    if options.command == "once":
        os.environ.update(options.request.get("environment", {}))
        import_tensorflow()
        run(options.request, options.descriptors, lifeline)
    control = socket.socket(fileno=options.control)
    versions = import_tensorflow()
    control.send(json.dumps({"ready": True, "versions": versions, "initialized": runtime_initialized()}).encode())
    serve(control, lifeline)


if __name__ == "__main__":
    main(sys.argv[1:])
