"""House rules that a linter does not know."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.paths import ROOT

PACKAGES = ("tapeworks", "service/tapeworks_service", "workers/tapeworks_workers")
LONGEST = 400
"""Lines of a file after which it must be looked at again; about 250 is the aim."""


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]


def test_no_file_has_outgrown_one_idea() -> None:
    files = [path for path in tracked() if path.suffix == ".py"]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST} == {}


def test_names_say_what_a_file_is_about() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "managers"}
    assert [str(path) for path in sources() if vague & {path.stem, path.parent.name}] == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT)) for path in sources() if not path.read_text().lstrip().startswith(('"""', "#!"))
    ]
    assert [name for name in silent if not name.endswith("__init__.py")] == []


def test_job_state_is_written_by_the_queue_alone() -> None:
    service = ROOT / "service/tapeworks_service"
    writers = {str(path.relative_to(service)) for path in service.rglob("*.py") if writes_state(path.read_text())}
    assert writers == {"queue/transitions.py", "queue/queue.py"}


def writes_state(source: str) -> bool:
    """Whether a function that changes rows of jobs gives a value to the column `state`."""
    functions = [one for one in ast.walk(ast.parse(source)) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
    return any(map(_gives_state, (node for one in functions if _changes_jobs(one) for node in _walk(one))))


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those of `raise`: a problem may name the state."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.Raise):
            yield from _walk(child)


def _gives_state(node: ast.AST) -> bool:
    match node:
        case ast.keyword(arg="state") | ast.Subscript(slice=ast.Constant("state"), ctx=ast.Store()):
            return True
        case ast.Dict(keys=keys):
            return any(isinstance(key, ast.Constant) and key.value == "state" for key in keys)
    return False


def _changes_jobs(function: ast.AST) -> bool:
    """Whether a function has `update(jobs)` or `insert(jobs)`, or the queue's own statement made of one."""
    for node in ast.walk(function):
        match node:
            case ast.Call(func=ast.Name("update" | "insert"), args=[ast.Name("jobs")]) | ast.Name("_INSERT"):
                return True
    return False


def test_a_write_of_the_state_is_found() -> None:
    for values in ('.values(state="queued")', '.values({"state": "queued"})', ".where(f(g(1))).values(state=x)"):
        assert writes_state(f"async def change(tx):\n    await tx.execute(update(jobs){values})\n")
    assert not writes_state("async def change(tx):\n    await tx.execute(update(jobs).values(priority=1))\n")


def test_no_index_address_and_no_path_of_one_machine() -> None:
    address = re.compile(r"(pypi\.org|files\.pythonhosted|registry\.npmjs|deb\.debian\.org|--index-url|--extra-index)")
    path = re.compile("/" + r"(home|root|work)/[a-z]")
    found = []
    for file in tracked():
        if file.suffix in {".png", ".gz", ".npz"} or file == Path(__file__):
            continue
        text = file.read_text(errors="replace")
        found += [
            f"{file.relative_to(ROOT)}: {match.group()}" for match in (*address.finditer(text), *path.finditer(text))
        ]
    assert found == []
