"""House rules that a linter does not know."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("tapeworks", "service/tapeworks_service", "workers/tapeworks_workers")
LONGEST = 400
"""Lines of a file after which it must be looked at again; about 250 is the aim."""


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]


def test_no_file_has_outgrown_one_idea() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources()}
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
    writes = re.compile(r"(\.values\([^)]*\bstate=|\.state\s*=[^=])")
    service = ROOT / "service/tapeworks_service"
    writers = {str(path.relative_to(service)) for path in service.rglob("*.py") if writes.search(path.read_text())}
    assert writers <= {"jobs/moves.py", "jobs/queue.py"}


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
