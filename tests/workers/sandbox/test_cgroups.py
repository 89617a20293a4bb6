"""Where a cgroup is made for a sandbox, and what is written there. The files are the kernel's interface (version 2)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tapeworks_workers.sandbox.cgroups import WORKER, Cgroup, Cgroups, CgroupsUnavailable

GIB = 1 << 30


def interface(folder: Path, *, controllers: str = "cpu memory pids", processes: str = "") -> Path:
    """A folder with the files of a cgroup."""
    folder.mkdir(parents=True)
    for name, content in (
        ("cgroup.controllers", controllers), ("cgroup.procs", processes), ("cgroup.subtree_control", ""),
        ("cgroup.type", "domain"), ("memory.events", "low 0\noom 1\noom_kill 2\n"), ("memory.max", "max"),
        ("memory.current", str(3 * GIB)), ("memory.stat", f"anon 1\ninactive_file {GIB}\n"), ("memory.swap.max", "max"),
    ):  # fmt: skip
        (folder / name).write_text(content)
    return folder


def test_a_cgroup_that_is_named_is_prepared_and_its_processes_move_below(tmp_path: Path) -> None:
    own = interface(tmp_path / "own", processes="4711\n")
    cgroups = Cgroups.found(own)
    assert not (own / WORKER).exists(), "to look changes nothing"
    interface(own / WORKER)
    cgroups.prepare()
    assert (own / WORKER / "cgroup.procs").read_text() == "4711"
    assert (own / "cgroup.subtree_control").read_text() == "+memory"


def test_its_own_cgroup_is_found_by_the_kernels_listing(tmp_path: Path) -> None:
    root = interface(tmp_path / "root")
    interface(root / "unit")
    listing = tmp_path / "cgroup"
    listing.write_text("4:memory:/elsewhere\n0::/unit\n")
    with pytest.raises(CgroupsUnavailable, match=r"unit is not delegated to this worker: set Delegate=yes"):
        Cgroups.found(roots=[root], own=listing)
    listing.write_text("4:memory:/elsewhere\n")
    with pytest.raises(CgroupsUnavailable, match="no cgroups of version 2"):
        Cgroups.found(roots=[root], own=listing)


@pytest.mark.parametrize(
    ("controllers", "why"), [("cpu pids", "has no memory controller"), (None, "is not a cgroup v2 folder")]
)
def test_why_there_is_none_is_said(tmp_path: Path, controllers: str | None, why: str) -> None:
    if controllers is not None:
        interface(tmp_path / "own", controllers=controllers)
    with pytest.raises(CgroupsUnavailable, match=why):
        Cgroups.found(tmp_path / "own")


def test_a_sandbox_begins_in_its_cgroup_with_its_limit(tmp_path: Path) -> None:
    cgroup = Cgroup(interface(tmp_path / "sandbox"))
    cgroup.limit(2 * GIB)
    assert (cgroup.folder / "memory.max").read_text() == str(2 * GIB)
    assert (cgroup.folder / "memory.swap.max").read_text() == "0"
    assert (cgroup.used_bytes(), cgroup.oom_kills()) == (2 * GIB, 2)
    command = cgroup.entering(["/bin/sh", "-c", "echo $$ $1", "sh", "two words; $(false)"])
    began = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    entered = (cgroup.folder / "cgroup.procs").read_text().strip()
    assert began == f"{entered} two words; $(false)", "the same process, its arguments as they were"
