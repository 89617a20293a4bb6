"""The system calls that a sandbox may not make, as a seccomp program: `program()` for bubblewrap's `--seccomp`.

Refused are namespaces and mounts, tracing, kernel interfaces that have been ways out of sandboxes (bpf, keyrings,
userfaultfd, io_uring, perf), what only an administrator does, and memory that no process has mapped (System V
segments, memfds), which cannot be counted from outside. Sockets are of this machine or of the internet, and of netlink
only those that list network interfaces. All other calls are allowed: TensorFlow uses a few hundred of them.

Instructions are those of <linux/filter.h>; the numbers of calls are the kernel's, by architecture.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
"""BPF_LD|W|ABS, BPF_JMP|JEQ, BPF_JMP|JGE, BPF_JMP|JSET, BPF_RET."""
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
"""Offsets in struct seccomp_data; each argument has eight bytes, the lower four first."""

AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
NETLINK_ROUTE = 0
NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
"""Write into a terminal's input."""
X32 = 0x40000000
"""Calls of the x32 interface have this bit: the same calls under other numbers."""

SHARED = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_getfd": 438, "mount_setattr": 442,
    "quotactl_fd": 443, "open_tree_attr": 467,
}  # fmt: skip
"""Calls that have one number on all architectures."""
WITHOUT = {"clone3": 435, "memfd_secret": 447}
"""Calls that seem not to exist: callers have another way. `clone3` has its flags in memory, which no filter reads."""


@dataclass(frozen=True)
class Architecture:
    """The numbers of one machine type."""

    audit: int
    """AUDIT_ARCH_…"""
    socket: int
    socketpair: int
    clone: int
    ioctl: int
    memfd_create: int
    refused: dict[str, int] = field(default_factory=dict)


ARCHITECTURES = {
    "x86_64": Architecture(0xC000003E, socket=41, socketpair=53, clone=56, ioctl=16, memfd_create=319, refused={
        "shmget": 29, "shmat": 30, "shmctl": 31, "msgget": 68, "ptrace": 101, "syslog": 103, "uselib": 134,
        "vhangup": 153, "modify_ldt": 154, "pivot_root": 155, "sysctl": 156, "adjtimex": 159, "chroot": 161,
        "acct": 163, "settimeofday": 164, "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169,
        "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173, "create_module": 174,
        "init_module": 175, "delete_module": 176, "query_module": 178, "quotactl": 179, "nfsservctl": 180,
        "lookup_dcookie": 212, "clock_settime": 227, "kexec_load": 246, "add_key": 248, "request_key": 249,
        "keyctl": 250, "unshare": 272, "perf_event_open": 298, "fanotify_init": 300, "name_to_handle_at": 303,
        "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308, "process_vm_readv": 310,
        "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "kexec_file_load": 320, "bpf": 321,
        "userfaultfd": 323,
    }),
    "aarch64": Architecture(0xC00000B7, socket=198, socketpair=199, clone=220, ioctl=29, memfd_create=279, refused={
        "lookup_dcookie": 18, "umount2": 39, "mount": 40, "pivot_root": 41, "nfsservctl": 42, "chroot": 51,
        "vhangup": 58, "quotactl": 60, "acct": 89, "unshare": 97, "kexec_load": 104, "init_module": 105,
        "delete_module": 106, "clock_settime": 112, "syslog": 116, "ptrace": 117, "reboot": 142, "sethostname": 161,
        "setdomainname": 162, "settimeofday": 170, "adjtimex": 171, "msgget": 186, "shmget": 194, "shmctl": 195,
        "shmat": 196, "add_key": 217, "request_key": 218, "keyctl": 219, "swapon": 224, "swapoff": 225,
        "perf_event_open": 241, "fanotify_init": 262, "name_to_handle_at": 264, "open_by_handle_at": 265,
        "clock_adjtime": 266, "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272,
        "finit_module": 273, "bpf": 280, "userfaultfd": 282, "kexec_file_load": 294,
    }),
}  # fmt: skip

_Code = list[tuple[int, int, int, int]]
"""Instructions: code, jump if true, jump if false, constant."""


def supported(machine: str | None = None) -> bool:
    """Whether the calls of this machine type are known."""
    return (machine or platform.machine()) in ARCHITECTURES


def program(machine: str | None = None) -> bytes:
    """The compiled filter, an array of struct sock_filter. Raises KeyError for an unknown machine type."""
    name = machine or platform.machine()
    known = ARCHITECTURES[name]
    code: _Code = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, known.audit),
        (_RETURN, 0, 0, _KILL),  # another architecture's numbers would be other calls
        (_LOAD, 0, 0, _NUMBER),
    ]
    if name == "x86_64":
        code += [(_AT_LEAST, 0, 1, X32), _fail(errno.ENOSYS)]
    for number in (*known.refused.values(), *SHARED.values()):
        code += [(_EQUAL, 0, 1, number), _fail(errno.EPERM)]
    for number in (known.memfd_create, *WITHOUT.values()):
        code += [(_EQUAL, 0, 1, number), _fail(errno.ENOSYS)]
    code += _of_call(known.socket, _sockets())
    code += _of_call(known.socketpair, _only(0, (AF_UNIX,), errno.EAFNOSUPPORT))
    code += _of_call(known.clone, [_load(0), (_ANY_BIT, 0, 1, NAMESPACES), _fail(errno.EPERM), _allowed()])
    code += _of_call(known.ioctl, _none_of(1, (TIOCSTI, TIOCLINUX), errno.EPERM))
    code.append(_allowed())
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _of_call(number: int, rest: _Code) -> _Code:
    """Instructions for one call; they end with a return."""
    return [(_EQUAL, 0, len(rest), number), *rest]


def _sockets() -> _Code:
    """Families that are allowed; of netlink, the protocol that lists interfaces."""
    route = [_load(2), (_EQUAL, 0, 1, NETLINK_ROUTE), _allowed(), _fail(errno.EAFNOSUPPORT)]
    families = _only(0, (AF_UNIX, AF_INET, AF_INET6), None)
    return [*families, (_EQUAL, 0, len(route), AF_NETLINK), *route, _fail(errno.EAFNOSUPPORT)]


def _only(argument: int, values: Sequence[int], error: int | None) -> _Code:
    """Allow these values of an argument; then fail, or go on without an error."""
    code: _Code = [_load(argument)]
    for value in values:
        code += [(_EQUAL, 0, 1, value), _allowed()]
    return code if error is None else [*code, _fail(error)]


def _none_of(argument: int, values: Sequence[int], error: int) -> _Code:
    """Fail for these values of an argument, allow all others."""
    code: _Code = [_load(argument)]
    for value in values:
        code += [(_EQUAL, 0, 1, value), _fail(error)]
    return [*code, _allowed()]


def _load(argument: int) -> tuple[int, int, int, int]:
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * argument)


def _fail(error: int) -> tuple[int, int, int, int]:
    return (_RETURN, 0, 0, _ERRNO | error)


def _allowed() -> tuple[int, int, int, int]:
    return (_RETURN, 0, 0, _ALLOW)
