"""Backup and restore of an embedded instance: its SQLite file, and every file that its rows refer to.

A backup is taken while the service runs: SQLite copies a moment of the database, then the files of that moment follow,
each checked against its digest. A checkpoint may be pruned in between; then another moment is taken.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tapeworks.errors import TapeworksError
from tapeworks.schemas.jobs import FINAL, HELD

DATABASE, ARTIFACTS, MANIFEST = "tapeworks.db", "artifacts", "backup.json"
MOMENTS = 5
_ENDED = ", ".join(f"'{state.value}'" for state in FINAL)
_FILES = f"""
    SELECT key, bytes, sha256 FROM artifacts UNION SELECT key, bytes, sha256 FROM checkpoints
    UNION SELECT key, bytes, sha256 FROM assets
    UNION SELECT job_inputs.key, job_inputs.bytes, job_inputs.sha256 FROM job_inputs
        JOIN jobs ON jobs.project_id = job_inputs.project_id AND jobs.id = job_inputs.job_id
        WHERE job_inputs.key IS NOT NULL AND jobs.state NOT IN ({_ENDED}) ORDER BY key
"""  # noqa: S608 — states of ours
"""What must be there: a job that has ended may outlive what it went on from."""
_UPLOADS = """
    SELECT key, bytes, sha256 FROM uploads WHERE job_id IS NULL AND completed_at IS NOT NULL
        AND key NOT IN (SELECT key FROM assets) ORDER BY key
"""
"""What a project sent and made nothing of yet. Where one is gone, the service asks for its bytes again."""


class BackupFailed(TapeworksError):
    """Nothing usable was written; the message says why."""


class _Gone(Exception):
    """A file went with its row after the database was copied."""


@dataclass(frozen=True)
class Copied:
    """What a backup or a restore moved."""

    files: int
    bytes: int


def back_up(data: Path, target: Path) -> Copied:
    """Copy the instance in `data` to the new folder `target`. Raises `BackupFailed`; a running service goes on."""
    if not (data / DATABASE).is_file():
        raise BackupFailed(f"there is no {DATABASE} in {data}: name the --data-dir of an embedded service")
    if target.exists():
        raise BackupFailed(f"{target} already exists: a backup needs a new folder")
    aside = target.with_name(f".{target.name}.writing")
    try:
        for moment in range(1, MOMENTS + 1):
            shutil.rmtree(aside, ignore_errors=True)
            try:
                copied = _moment(data, aside)
                break
            except _Gone as gone:
                if moment == MOMENTS:
                    raise BackupFailed(f"{gone} is missing in {data / ARTIFACTS}") from gone
        aside.rename(target)
    except OSError as error:
        raise BackupFailed(f"cannot write to {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return copied


def _moment(data: Path, aside: Path) -> Copied:
    aside.mkdir(parents=True, mode=0o700)
    copy = aside / DATABASE
    with closing(sqlite3.connect(data / DATABASE, timeout=60)) as database:
        database.execute("VACUUM INTO ?", (str(copy),))
    copied = _copy_files(copy, data / ARTIFACTS, aside / ARTIFACTS)
    manifest = {"made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "database_sha256": _digest(copy)}
    (aside / MANIFEST).write_text(
        json.dumps({**manifest, "files": copied.files, "bytes": copied.bytes}, indent=1) + "\n"
    )
    _sync_tree(aside)
    return copied


def restore(source: Path, data: Path) -> Copied:
    """Make the backup in `source` the instance in `data`, which has none yet. Raises `BackupFailed`.

    Leases of before are void: their workers are refused, and their jobs are queued again by the reaper.
    """
    try:
        manifest = json.loads((source / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise BackupFailed(f"{source} is not a complete backup: its {MANIFEST} cannot be read") from error
    if _digest(source / DATABASE) != manifest["database_sha256"]:
        raise BackupFailed(f"{source / DATABASE} does not match the backup's digest")
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _alone(data):
        if (data / DATABASE).exists() or (data / ARTIFACTS).exists():
            raise BackupFailed(f"{data} already contains an instance: restore into an empty folder")
        try:
            copied = _copy_files(source / DATABASE, source / ARTIFACTS, data / ARTIFACTS)
            _restore_database(source / DATABASE, data / DATABASE)
        except (OSError, _Gone, BackupFailed) as error:
            shutil.rmtree(data / ARTIFACTS, ignore_errors=True)
            raise BackupFailed(f"nothing was restored: {error}") from error
        _sync_tree(data)
    return copied


def _restore_database(source: Path, target: Path) -> None:
    aside = target.with_name(f".{target.name}.writing")
    shutil.copyfile(source, aside)
    held = ", ".join(f"'{state.value}'" for state in HELD)
    with closing(sqlite3.connect(aside)) as database, database:
        # A worker that went on meanwhile has sent its records to another history.
        database.execute(f"UPDATE jobs SET token_hash = 'restored', lease_expires_at = 0 WHERE state IN ({held})")  # noqa: S608
    aside.rename(target)


def _copy_files(database: Path, source: Path, target: Path) -> Copied:
    """Copy what the rows name. Raises `_Gone`, and `BackupFailed` where a file has not the digest of its row."""
    target.mkdir(parents=True, exist_ok=True, mode=0o700)
    count = total = 0
    with closing(sqlite3.connect(database)) as rows:
        needed = [(*row, True) for row in rows.execute(_FILES)]
        for key, size, sha256, must in needed + [(*row, False) for row in rows.execute(_UPLOADS)]:
            path = target / key
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(source / key, path)
            except FileNotFoundError as error:
                if must:
                    raise _Gone(key) from error
                continue
            if path.stat().st_size != size or _digest(path) != sha256:
                raise BackupFailed(f"{source / key} is damaged: it does not match its stored digest")
            count, total = count + 1, total + size
    return Copied(count, total)


@contextmanager
def _alone(data: Path) -> Iterator[None]:
    """The folder without a service in it. Raises `BackupFailed`."""
    with (data / "serve.lock").open("w") as serve, (data / f"{DATABASE}.lock").open("w") as service:
        for lock in (serve, service):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BackupFailed(f"a service runs in {data}: restore into another folder") from None
        yield


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BackupFailed(f"cannot read {path}: {error.strerror}") from error


def _sync_tree(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
