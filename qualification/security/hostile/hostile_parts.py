"""Code that tries to get out: what it reached is printed as JSON after ESCAPE, for whoever asked for it to read."""

import ctypes
import glob
import json
import os
import signal
import socket
import sys
import time

from tapeworks import Source, component


@component("hostile/Try")
class Try(Source):
    """Does one thing that it should not, then gives a few rows."""

    def __init__(self, what: str = "nothing", target: str = "", number: int = 0):
        self.what, self.target, self.number = what, target, number

    def dataset(self):
        import tensorflow as tf

        try:
            reached = globals()[self.what](self.target, self.number)
        except BaseException as error:
            reached = {"reached": "", "error": f"{type(error).__name__}: {error}"}
        print("ESCAPE " + json.dumps(reached), flush=True)
        return tf.data.Dataset.from_tensor_slices((tf.zeros((8, 2)), tf.zeros(8, tf.int64)))


def nothing(target, number):
    return {"reached": ""}


def forge(target, number):
    """Tell the agent in the runner's name that 23 bytes are a verified model, and end."""
    import gc

    from tapeworks_workers.processes.frames import Channel

    with open("model.tar.gz", "w") as file:
        file.write("this is no model at all")
    published = {"bundle": "model.tar.gz", "formats": ["keras"], "verified": {"reload": {"bit_equal": True}}}
    channel = next(one for one in gc.get_objects() if isinstance(one, Channel))
    channel.send({"type": "finish", "outcome": "succeeded", "failure": None, "files": [], "published": published})
    os._exit(0)


def read(target, number):
    with open(target) as file:
        return {"reached": file.read()[:200]}


def listing(target, number):
    return {"reached": " ".join(os.listdir(target))[:200]}


def environment(target, number):
    """Whatever variable, of whatever process, holds a text."""
    found = [name for name, value in os.environ.items() if target in value]
    for file in glob.glob("/proc/*/environ"):
        try:
            with open(file) as variables:
                found += [file] if target in variables.read() else []
        except OSError:
            continue
    return {"reached": " ".join(found)}


def connect(target, number):
    told = []
    for family, place in ((socket.AF_INET, ("127.0.0.1", number)), (socket.AF_INET, ("192.0.2.1", 80))):
        with socket.socket(family) as sock:
            sock.settimeout(2)
            try:
                sock.connect(place)
                return {"reached": str(place)}
            except OSError as error:
                told.append(str(error))
    return {"reached": "", "error": "; ".join(told)}


def write(target, number):
    errors = []
    for place in [
        *target.split(":"),
        __file__,
        sys.executable + ".new",
        os.path.dirname(os.__file__) + "/x.py",
        "/etc/x",
    ]:
        try:
            with open(place, "a") as file:
                file.write("# was here")
            return {"reached": place}
        except OSError as error:
            errors.append(error.strerror)
    return {"reached": "", "error": ", ".join(sorted(set(errors)))}


def become_root(target, number):
    errors = []
    for attempt in (lambda: os.setuid(0), lambda: os.setresuid(0, 0, 0), lambda: os.chown(__file__, 0, 0)):
        try:
            attempt()
            return {"reached": f"uid {os.getuid()}"}
        except OSError as error:
            errors.append(error.strerror)
    libc = ctypes.CDLL(None, use_errno=True)
    for name, result in (
        ("mount", libc.mount(b"none", b"/mnt", b"tmpfs", 0, None)),
        ("chroot", libc.chroot(b"/proc/1/root")),
    ):
        if result == 0:
            return {"reached": name}
    return {"reached": "", "error": ", ".join(sorted(set(errors)))}


def send_signal(target, number):
    try:
        os.kill(number, signal.SIGKILL)
        return {"reached": f"a process {number}"}
    except OSError as error:
        seen = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        return {"reached": "", "error": f"{error.strerror}; {len(seen)} processes seen"}


def kill_everything(target, number):
    os.kill(-1, signal.SIGKILL)
    return {"reached": ""}


def fork_bomb(target, number):
    count = 0
    while True:
        try:
            pid = os.fork()
        except OSError as error:
            return {"reached": "", "count": count, "error": error.strerror}
        if pid == 0:
            time.sleep(600)
            os._exit(0)
        count += 1
        if count >= number:
            return {"reached": f"{count} processes"}


def memory(target, number):
    kept = []
    while True:
        kept.append(bytearray(os.urandom(1 << 20)) * 64)


def disk(target, number):
    block = os.urandom(1 << 20)
    count = 0
    while True:
        with open(f"fill-{count}", "wb") as file:
            for _ in range(32):
                file.write(block)
        count += 1


def memfds(target, number):
    """Memory that belongs to no process's heap: memfds, then files of /dev/shm."""
    try:
        kept = [os.memfd_create("kept")]
        error = ""
    except OSError as refused:
        kept, error = [os.open("/dev/shm/kept", os.O_CREAT | os.O_RDWR)], refused.strerror
    block, written = os.urandom(1 << 20), 0
    try:
        while written < number:
            written += os.write(kept[0], block)
    except OSError as refused:
        return {"reached": "", "error": f"memfd: {error}; /dev/shm: {refused.strerror} after {written >> 20} MiB"}
    return {"reached": f"{written} bytes"}


def nested(target, number):
    """Folders in folders, deeper than any path can name."""
    for _ in range(number):
        os.mkdir("d")
        os.chdir("d")
    return {"reached": ""}


def flood(target, number):
    """More events than anybody reads, until the job's time is over."""
    import gc

    from tapeworks_workers.processes.frames import Channel

    channel = next(one for one in gc.get_objects() if isinstance(one, Channel))
    while True:
        data = {"message": "x" * 60_000}
        channel.send({"type": "record", "record": {"record": "event", "type": "note", "data": data}})


def temporary(target, number):
    block, written = os.urandom(1 << 20), 0
    try:
        with open("/tmp/fill", "wb") as file:
            while written < number:
                file.write(block)
                written += len(block)
    except OSError as error:
        return {"reached": "", "error": f"{error.strerror} after {written >> 20} MiB"}
    return {"reached": f"{written} bytes"}


def leave(target, number):
    """Files for the job after this one, and shared memory where it can be made."""
    for place in ("/tmp", "/dev/shm"):
        with open(f"{place}/left", "w") as file:
            file.write(target)
    return {"reached": "", "left": True, "shared": ctypes.CDLL(None).shmget(number, 4096, 0o1666)}


def find(target, number):
    """What a job before this one left."""
    found = [f"{place}/left" for place in ("/tmp", "/dev/shm") if os.path.exists(f"{place}/left")]
    found += ["shared memory"] * (ctypes.CDLL(None).shmget(number, 4096, 0) >= 0)
    return {"reached": ", ".join(found)}


def link(target, number):
    """A link where files lie that are published."""
    os.makedirs("artifacts", exist_ok=True)
    os.symlink(target, "artifacts/leak.txt")
    with open("artifacts/own.txt", "w") as file:
        file.write("its own")
    return {"reached": ""}


def outlive(target, number):
    """A daemon in a session of its own that ignores what it can."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for one in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(one, signal.SIG_IGN)
            ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
            time.sleep(600)
        os._exit(0)
    return {"reached": "", "error": "it runs now"}


if os.path.isfile(os.path.join(os.path.dirname(__file__), "..", "manifest.json")):  # a verifier imports it
    try:
        with open(__file__, "a") as sealed:
            sealed.write("# changed after it was sealed\n")
        print("ESCAPE " + json.dumps({"reached": __file__}), flush=True)
    except OSError as error:
        print("ESCAPE " + json.dumps({"reached": "", "error": f"{type(error).__name__}: {error}"}), flush=True)
