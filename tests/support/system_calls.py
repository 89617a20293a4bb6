"""A module of a package that makes the system calls that a sandbox refuses, while it is imported; what came of each is
left in its home."""

import ctypes
import errno
import json
import os
import pathlib
import platform
import socket
import subprocess
import threading

NEWUSER = 0x10000000
X86 = {"ptrace": 101, "keyctl": 250, "bpf": 321, "userfaultfd": 323, "perf_event_open": 298, "mount": 165,
       "setns": 308, "shmget": 29, "memfd_create": 319, "process_vm_readv": 310, "clone": 56}  # fmt: skip
ARM = {"ptrace": 117, "keyctl": 219, "bpf": 280, "userfaultfd": 282, "perf_event_open": 241, "mount": 40,
       "setns": 268, "shmget": 194, "memfd_create": 279, "process_vm_readv": 270, "clone": 220}  # fmt: skip
NUMBERS = {**(X86 if platform.machine() == "x86_64" else ARM), "io_uring_setup": 425, "open_tree": 428,
           "pidfd_getfd": 438, "clone3": 435}  # fmt: skip
libc = ctypes.CDLL(None, use_errno=True)


def call(number: int, *arguments: int) -> str:
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, (*arguments, *[0] * (6 - len(arguments)))))
    return "done" if result >= 0 else errno.errorcode[ctypes.get_errno()]


def opened(*family: int) -> str:
    try:
        socket.socket(*family).close()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def tried() -> dict[str, str]:
    clone_of_a_namespace = (NEWUSER | 17,)
    found = {name: call(number, *(clone_of_a_namespace if name == "clone" else ())) for name, number in NUMBERS.items()}
    found["unshare"] = "done" if libc.unshare(NEWUSER) == 0 else errno.errorcode[ctypes.get_errno()]
    if platform.machine() == "x86_64":
        found["x32"] = call(0x40000000 | 39)
    families = {"vsock": 40, "alg": 38, "packet": 17, "bluetooth": 31, "can": 29, "rds": 21, "tipc": 30}
    found |= {f"socket {name}": opened(number, 2) for name, number in families.items()}
    found["socket uevent"] = opened(16, 3, 15)
    found["socketpair"] = opened(1) if socket.socketpair() else ""
    found |= {"unix": opened(1), "inet": opened(2), "inet6": opened(10), "netlink": opened(16, 3, 0)}
    thread = threading.Thread(target=found.__setitem__, args=("thread", "done"))
    thread.start()
    thread.join()
    found["process"] = subprocess.run(["/bin/echo", "done"], capture_output=True, text=True, check=True).stdout.strip()
    return found


pathlib.Path(os.environ["HOME"], "calls.json").write_text(json.dumps(tried()))
