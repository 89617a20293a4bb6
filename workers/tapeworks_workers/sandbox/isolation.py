"""Where uploaded code runs: which layers this machine has, and how a process is started behind them.

| layer | what it takes away |
|---|---|
| `environment` | every variable but a few: no key, no setting, no path of the operator |
| `limits` | open files, processes and file sizes without end, core files; memory and disk are watched beside it |
| `user` | the worker's own user: a user of its own as root, else one in a namespace |
| `network` | every network, this machine's own included |
| `processes` | the sight of any process outside; all inside end with the sandbox |
| `files` | every file but Python's, the packages', the project's inputs and a folder of its own |
| `syscalls` | system calls that lead out of sandboxes, and memory that cannot be counted: see `seccomp` |

`processes` and `files`, and the network where the worker is not root, are bubblewrap's (`bwrap`).
TAPEWORKS_SANDBOX=required takes no package where one is missing; `tapeworks doctor` shows which are there. GPUs are
bound in as NVIDIA's container tools do it; that was written from their documentation and not run on one.
"""

from __future__ import annotations

import fcntl
import glob
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import tapeworks
import tapeworks_workers
from tapeworks_workers.processes.children import BASE, DeathPipe, clean_environment, start
from tapeworks_workers.processes.handles import Handle
from tapeworks_workers.sandbox import seccomp
from tapeworks_workers.sandbox.cgroups import Cgroup

LAYERS = ("environment", "limits", "user", "network", "processes", "files", "syscalls")
ON = "on"
FIRST_UID, USERS = 61_184, 1_000
"""Of the range that systemd keeps for users of the moment; each sandbox at a time has its own."""
TEMPORARY_BYTES = 256 << 20
SHARED_BYTES = 64 << 20
"""Of /tmp and /dev/shm, which are memory."""
FILE_BYTES = 64 << 30
THREADS, THREADS_PER_CPU = 512, 128
"""Processes and threads at once: TensorFlow has pools for each core, in the runner and in two verifiers."""
LIMITS = {
    "NOFILE": 4096, "NPROC": THREADS + THREADS_PER_CPU * (os.cpu_count() or 1), "FSIZE": FILE_BYTES, "CORE": 0,
    "MSGQUEUE": 0,
}  # fmt: skip
_KEPT = (
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH",
    "TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS", "KERAS_BACKEND",
)  # fmt: skip
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_SETTINGS = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")
_PROBE_SECONDS = 20
_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class User:
    """A user id, held by a lock that ends with this process: the limits of a user are of all its processes."""

    uid: int
    _lock: int

    @classmethod
    def free(cls) -> User:
        """One that nobody on this machine holds. Raises OSError where all are taken."""
        folder = Path(tempfile.gettempdir()) / "tapeworks-users"
        folder.mkdir(mode=0o700, exist_ok=True)
        for uid in range(FIRST_UID, FIRST_UID + USERS):
            lock = os.open(folder / str(uid), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            return cls(uid, lock)
        raise OSError(None, f"all {USERS} users of sandboxes are in use")

    def release(self) -> None:
        """Let another sandbox have it."""
        os.close(self._lock)


@dataclass(frozen=True)
class SandboxMount:
    """The inside of one sandbox."""

    folder: Path
    """Its own folder, to write in; at the same place inside."""
    user: User | None
    """Whom it becomes; None: the worker's, in a namespace or as it is."""
    readable: tuple[Path, ...] = ()
    """Files and folders at the same place inside, to read."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Beside what is kept of the worker's."""
    cgroup: Cgroup | None = None
    """Where the kernel counts its memory."""

    @property
    def uid(self) -> int | None:
        """The user id of the sandboxed processes."""
        return None if self.user is None else self.user.uid


@dataclass(frozen=True)
class Sandbox:
    """The layers of this machine."""

    layers: Mapping[str, str]
    """Layer → `on`, or why it is not there."""
    bubblewrap: str | None
    root: bool
    without_namespaces: bool = False
    """Whether bubblewrap can forbid further user namespaces."""

    @property
    def missing(self) -> dict[str, str]:
        """Layers that are not there, with the reasons."""
        return {layer: state for layer, state in self.layers.items() if state != ON}

    def user(self) -> User | None:
        """A user that no other sandbox of this machine has; None where there is none but the worker's.

        Raises OSError where all are taken."""
        return User.free() if self.root and self.layers["user"] == ON else None

    def start(
        self,
        room: SandboxMount,
        lifeline: DeathPipe,
        arguments: Sequence[str],
        inherited: Sequence[int],
        *,
        output: int,
    ) -> Handle:
        """Start `base.py` in a room, as `processes.start_base` does outside. Raises OSError."""
        alone = self.bubblewrap is None and self.root and self.layers["network"] == ON
        filtered = seccomp.program() if self.layers["syscalls"] == ON else None
        confined: dict[str, Any] = {"limits": _possible(LIMITS), "uid": room.uid, "unshare": alone}
        if filtered is not None and self.bubblewrap is None:
            confined["seccomp"] = filtered.hex()
        parent = os.getpid() if self.bubblewrap is None else 1
        options = ["--agent", str(parent), "--lifeline", str(lifeline.reading), "--confine", json.dumps(confined)]
        command = [sys.executable, "-I", str(BASE), *options, *arguments]
        descriptors = [lifeline.reading, *inherited]
        if self.bubblewrap is None:
            return start(_entering(room, command), descriptors, _environment(room), output=output)
        with _readable(filtered) as rules:
            walls = [*self._walls(room), *(["--seccomp", str(rules)] if rules is not None else [])]
            given = descriptors if rules is None else [*descriptors, rules]
            command = _entering(room, [*walls, "--", *command])
            return start(command, given, _environment(room), output=output)

    def _walls(self, room: SandboxMount) -> list[str]:
        """bubblewrap's command line, without what it runs; nothing where it is not there."""
        if self.bubblewrap is None:
            return []
        walls = [self.bubblewrap, "--die-with-parent", "--unshare-pid", "--unshare-net", "--unshare-ipc"]
        walls += ["--unshare-uts", "--unshare-cgroup-try"]
        if self.root:  # `confine` becomes another user, and has no capability left then
            walls += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        else:
            walls += ["--unshare-user", *(["--disable-userns"] if self.without_namespaces else [])]
        walls += ["--proc", "/proc", "--dev", "/dev"]
        for size, place in ((SHARED_BYTES, "/dev/shm"), (TEMPORARY_BYTES, "/tmp")):  # noqa: S108 — inside
            walls += ["--perms", "1777", "--size", str(size), "--tmpfs", place]
        for place in _SYSTEM:
            if Path(place).is_symlink():
                walls += ["--symlink", os.readlink(place), place]
            else:
                walls += ["--ro-bind-try", place, place]
        shown = (*map(Path, _SETTINGS), *_python(), *room.readable)
        for parent in _parents((*shown, room.folder)):  # made by bubblewrap itself, they would be root's alone
            walls += ["--perms", "0755", "--dir", str(parent)]
        for one in shown:
            walls += ["--ro-bind-try", str(one), str(one)]
        gpus = glob.glob("/dev/nvidia*") if room.environment.get("CUDA_VISIBLE_DEVICES", "-1") != "-1" else []
        for device in gpus:
            walls += ["--dev-bind", device, device]
        if gpus:
            walls += ["--ro-bind", "/sys", "/sys"]
        walls += ["--bind", str(room.folder), str(room.folder), "--chdir", str(room.folder)]
        return [*walls, "--remount-ro", "/"]


def _entering(room: SandboxMount, command: list[str]) -> list[str]:
    return command if room.cgroup is None else room.cgroup.entering(command)


def _parents(places: Sequence[Path]) -> list[Path]:
    """The folders above these, the upper ones first, but for those that are there."""
    there = {Path("/"), Path("/tmp"), Path("/dev")}  # noqa: S108 — inside
    found = {parent for place in places for parent in place.parents if parent not in there}
    return sorted(parent for parent in found if not any(parent.is_relative_to(system) for system in _SYSTEM))


def _python() -> list[Path]:
    """What Python and Tapeworks are made of; what lies below another of them needs not be named."""
    packages = [Path(str(package.__file__)).parent for package in (tapeworks, tapeworks_workers)]
    places = [Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parent, *packages]
    found: list[Path] = []
    for place in sorted({place.absolute() for place in places}):
        if not any(place.is_relative_to(other) for other in (*found, Path("/usr"))):
            found.append(place)
    return found


def _environment(room: SandboxMount) -> dict[str, str]:
    kept = {name: value for name, value in clean_environment().items() if name in _KEPT}
    home = str(room.folder / "home")
    return {
        **kept, "HOME": home, "USER": "sandbox", "LOGNAME": "sandbox", "TMPDIR": "/tmp",  # noqa: S108 — inside
        "TF_FORCE_GPU_ALLOW_GROWTH": "true", **room.environment,
    }  # fmt: skip


def _possible(limits: Mapping[str, int]) -> dict[str, int]:
    """No higher than what this process may have itself."""
    possible = {}
    for name, value in limits.items():
        _, hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
        possible[name] = value if hard == resource.RLIM_INFINITY else min(value, hard)
    return possible


# ── which there are ──────────────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=1)
def of_this_machine() -> Sandbox:
    """Try each layer, once."""
    return probed(shutil.which("bwrap"))


def probed(bubblewrap: str | None) -> Sandbox:
    """Try each layer, with that bubblewrap or with none."""
    root = os.geteuid() == 0
    absent = _why_not(bubblewrap, root=root)
    layers = dict.fromkeys(LAYERS, ON) | {"syscalls": _unfiltered() or ON}
    if absent is not None:
        layers |= {"processes": absent, "files": absent}
        if not root:
            layers |= {"user": f"the worker is not root, and {absent}", "network": absent}
        else:
            layers |= {"user": _another_user() or ON, "network": _unshared() or ON}
    forbids = (
        absent is None and not root and _failed(_probe(bubblewrap, root=root, more=["--disable-userns"]), "") is None
    )
    return Sandbox(layers, bubblewrap if absent is None else None, root, forbids)


def _why_not(bubblewrap: str | None, *, root: bool) -> str | None:
    """Why bubblewrap is of no use here."""
    if bubblewrap is None:
        return "bubblewrap (bwrap) is not installed"
    return _failed(_probe(bubblewrap, root=root), "bubblewrap cannot make namespaces here")


def _probe(bubblewrap: str | None, *, root: bool, more: Sequence[str] = ()) -> list[str]:
    """A command that runs in namespaces and does nothing."""
    namespaces = ["--unshare-pid", "--unshare-net", *([] if root else ["--unshare-user"]), *more]
    return [str(bubblewrap), *namespaces, "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--", "/bin/true"]


def _unfiltered() -> str | None:
    """Why system calls cannot be filtered here."""
    if not seccomp.supported():
        return f"the system calls of {platform.machine()} are not known"
    return None if _has_seccomp() else "this kernel has no seccomp filters"


def _has_seccomp() -> bool:
    try:
        return "errno" in Path("/proc/sys/kernel/seccomp/actions_avail").read_text().split()
    except OSError:
        return False


@contextmanager
def _readable(filtered: bytes | None) -> Iterator[int | None]:
    """A descriptor from which bubblewrap reads the filter."""
    if filtered is None:
        yield None
        return
    reading, writing = os.pipe()
    try:
        os.write(writing, filtered)  # some kilobytes: a pipe holds 64
        os.close(writing)
        yield reading
    finally:
        os.close(reading)


def _another_user() -> str | None:
    """Why another user could not run what this one runs: Python may lie where it cannot look."""
    become = f"import os, sys; os.setresgid(*[{FIRST_UID}] * 3); os.setresuid(*[{FIRST_UID}] * 3)"
    code = f"{become}; import datetime, json; [os.listdir(place) for place in sys.argv[1:]]"
    return _failed([sys.executable, "-I", "-c", code, *map(str, _python())], "another user cannot read Python's files")


def _unshared() -> str | None:
    code = f"import ctypes, sys; sys.exit(1 if ctypes.CDLL(None).unshare({_CLONE_NEWNET}) else 0)"
    return _failed([sys.executable, "-I", "-c", code], "no network namespace can be made here")


def _failed(command: Sequence[str], what: str) -> str | None:
    try:
        done: Any = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{what}: {error}"
    return None if done.returncode == 0 else f"{what}: {done.stderr.strip()[:200] or f'status {done.returncode}'}"
