"""Every setting of a worker: from options, from TAPEWORKS_WORKER_* in the environment, or from their defaults here.

How processes are started is `TAPEWORKS_RUNNER`: `fork` (from the zygotes) or `spawn`.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, PositiveFloat
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from tapeworks.schemas.worker_protocol import WorkerId
from tapeworks_workers.remote_urls import BadUrl, normalised


def _paths(value: Any) -> Any:
    """A list of paths as PATH writes it: separated by colons."""
    return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value


def _labels(value: Any) -> Any:
    """Labels as `zone=a,disk=fast`."""
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if part]
    if any(not name or not sign for name, sign, _ in pairs):
        raise ValueError(f"labels must be name=value,name=value, got {value!r}")
    return {name: text for name, _, text in pairs}


def _words(value: Any) -> Any:
    """A list of addresses, separated by white space."""
    return value.split() if isinstance(value, str) else value


def _remote(value: list[str]) -> list[str]:
    for one in value:
        try:
            normalised(one)
        except BadUrl as error:
            raise ValueError(f"{one!r} cannot be allowed: it {error}") from error
    return value


def _default_id(given: dict[str, Any]) -> str:
    """The host's name, and a mark of the work folder, which has one worker: two on one host have different names."""
    host = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname()).lstrip("_.-") or "worker"
    folder = str(given.get("work_dir", Path()).resolve())
    return f"{host[:90]}-{hashlib.sha256(folder.encode()).hexdigest()[:6]}"


def _address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{value!r} is not a service URL: write http://HOST:PORT")
    return value


Paths = Annotated[list[Path], NoDecode, BeforeValidator(_paths)]


class WorkerSettings(BaseSettings):
    """The settings of a worker when it starts."""

    model_config = SettingsConfigDict(
        env_prefix="TAPEWORKS_WORKER_", extra="ignore", frozen=True, populate_by_name=True
    )

    server: Annotated[str, AfterValidator(_address)] = "http://127.0.0.1:8000"
    """URL of the service."""
    key_file: Path | None = None
    """A file with a key of scope `worker`; none where the service asks for none."""
    work_dir: Path = Path("tapeworks-work")
    """Attempts' folders and the cached catalogue; made where missing."""
    id: WorkerId = Field(default_factory=_default_id)
    """Stays the same over restarts; one running worker each."""
    components: Paths = Field(default_factory=list)
    """Files and folders of users' own components; watched."""
    data_roots: Paths = Field(default_factory=list)
    """Folders that sources may read below."""
    remote_files: Annotated[list[str], NoDecode, BeforeValidator(_words), AfterValidator(_remote)] = Field(
        default_factory=list
    )
    """Addresses below which jobs may read files: s3://BUCKET/…, gs://BUCKET/…, https://HOST/…; none by default."""
    remote_private: bool = False
    """Whether names in `remote_files` may resolve to private addresses; an address that is listed itself may be."""
    remote_bytes: Annotated[int, Field(gt=0)] = 50 * 1024**3
    """What one remote file may have."""
    remote_seconds: PositiveFloat = 60.0
    """Without a byte from a server, after which it is tried again."""
    connections_file: Path | None = None
    """A TOML file with [connections]: name = "postgresql://…" or "sqlite:///…"; read by the agent alone."""
    query_rows: Annotated[int, Field(gt=0)] = 100_000_000
    """What a query of the source `sql` may give,"""
    query_bytes: Annotated[int, Field(gt=0)] = 10 * 1024**3
    """in rows and in bytes,"""
    query_seconds: PositiveFloat = 600.0
    """and what it may take."""
    cpu_slots: Annotated[int, Field(ge=0)] | None = None
    """Number of concurrent jobs on the CPU. Default: none beside GPUs, else one for every two cores."""
    logical_devices: Annotated[int, Field(ge=0, le=64)] = 0
    """On a machine without GPUs: so many logical CPU devices are offered as GPUs. For tests of resources.gpus: a job on
    two of them computes what it computes on two GPUs, and no faster than on one."""
    labels: Annotated[dict[str, str], NoDecode, BeforeValidator(_labels)] = Field(default_factory=dict)
    """What a job's resources.worker_labels can ask for."""
    allow_packages: bool = Field(
        default=False, validation_alias=AliasChoices("allow_packages", "TAPEWORKS_ALLOW_PACKAGES")
    )
    """Whether jobs with uploaded packages may run here, in sandboxes."""
    sandbox: Literal["available", "required"] = Field(
        default="available", validation_alias=AliasChoices("sandbox", "TAPEWORKS_SANDBOX")
    )
    """`required`: no package is taken where a layer of the sandbox is missing."""
    cgroup: Path | None = None
    """A cgroup (version 2) in which the worker may make others, one for each sandbox: see docs/security.md."""
    sandbox_disk_bytes: Annotated[int, Field(gt=0)] = 20 * 1024**3
    """What a job in a sandbox may write."""
    cache_bytes: Annotated[int, Field(gt=0)] = 50 * 1024**3
    """Uploaded datasets and packages that are kept for other jobs."""
    runner: Literal["fork", "spawn"] = Field(
        default="fork", validation_alias=AliasChoices("runner", "TAPEWORKS_RUNNER")
    )
    component_seconds: PositiveFloat = 60.0
    """What the import of one module of components, or the admission of one component, may take; else it is refused."""
    grace_seconds: PositiveFloat = 20.0
    """From a cancel, a time limit or a drain until the runner is killed."""
    verify_seconds: PositiveFloat = 600.0
    """What a verifier may take."""
    spool_bytes: Annotated[int, Field(gt=0)] = 64 * 1024 * 1024
    """Records of one attempt that wait on disk while the service is away; more are dropped, logs first."""

    reserve_bytes: Annotated[int, Field(ge=0)] = 256 * 1024 * 1024
    """What checkpoints leave free of the work folder's disk."""

    silence_seconds: PositiveFloat = 30.0
    """`tapeworks worker --supervise` replaces an agent that does not answer for this long."""
    beat: int | None = None
    """Descriptor of a file for signs of life (`tapeworks serve`, `tapeworks worker --supervise`)."""
    lifeline: int | None = None
    """Descriptor of a pipe: the worker ends when its other end is closed (`tapeworks serve`)."""

    def key(self) -> str | None:
        """The key's text. Raises OSError where the file cannot be read."""
        return self.key_file.read_text().strip() or None if self.key_file else None
