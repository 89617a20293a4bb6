"""Every setting of the service, read from `TAPEWORKS_…` variables or given by `tapeworks serve`."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tapeworks.bounds import YEAR
from tapeworks.errors import TapeworksError
from tapeworks.schemas.report_limits import LIMITS, ReportLimits
from tapeworks.schemas.worker_protocol import PART_BYTES

MIB = 1024 * 1024


class StartRefused(TapeworksError):
    """The service does not start like this; the message says what to change."""


class ServiceSettings(BaseSettings):
    """Settings of one service process."""

    model_config = SettingsConfigDict(env_prefix="TAPEWORKS_", frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    """Without any key only a loopback address is accepted."""
    port: int = Field(default=8000, ge=0, le=65535)
    data_dir: Path = Path("tapeworks-data")
    """Holds the SQLite file and the artifacts."""
    database_url: str | None = None
    """An SQLAlchemy URL (`sqlite+aiosqlite:///…`, `postgresql+asyncpg://…`); default: a SQLite file in `data_dir`."""
    database_password_file: Path | None = None
    """A file that holds the password of that URL, as container secrets do."""
    api_key: SecretStr | None = None
    """The first key of the installation, with all scopes. Only its hash is stored."""
    api_key_file: Path | None = None
    """A file that holds that key, as container secrets do."""

    origins: str = ""
    """Origins (`http://localhost:3000`), separated by commas, of web pages that may send requests where there is no
    key, beside the service's own."""

    session_seconds: PositiveFloat = 7 * 86_400.0
    """How long a log-in to the web page lasts; it ends with its key in any case."""

    lease_seconds: PositiveFloat = 20.0
    """An attempt that does not renew its lease for so long may be taken up by another."""
    heartbeat_seconds: PositiveFloat = 5.0
    """How often workers are told to renew."""
    reaper_seconds: PositiveFloat = 5.0
    retry_seconds: float = Field(default=1.0, ge=0)
    """Pause before the second attempt; it doubles with each failed one, up to a minute."""
    wait_seconds: PositiveFloat = 30.0
    """The longest that a waiting request is held."""
    busy_seconds: PositiveFloat = 5.0
    """How long a request waits for the database before it is answered with 503."""

    worker_silence_seconds: PositiveFloat = 30.0
    """`tapeworks serve` replaces a worker's agent that does not answer for this long."""

    default_timeout_seconds: float = Field(default=7 * 86_400.0, gt=0, le=YEAR)
    """`limits.timeout_seconds` of a training job whose spec has none: no job may hold a worker for ever."""

    max_connections: PositiveInt = 4096
    """Open at once, beside those of workers; fewer where the process may have fewer open files."""
    worker_connections: PositiveInt = 128
    """More of them in which calls of workers alone are answered."""
    max_connections_per_address: PositiveInt = 2048
    max_header_bytes: PositiveInt = 32 * 1024
    header_seconds: PositiveFloat = 10.0
    """How long the header of a request may be on its way."""
    body_seconds: PositiveFloat = 30.0
    """How long its body may, and one second more for each 4 KiB that came."""
    send_seconds: PositiveFloat = 60.0
    """How long a client may not read what is sent to it."""
    trusted_proxies: str = ""
    """Addresses and networks of proxies, separated by commas, whose `X-Forwarded-For` is believed."""

    max_body_bytes: PositiveInt = MIB
    max_job_events: PositiveInt = LIMITS.events
    max_job_event_bytes: PositiveInt = LIMITS.event_bytes
    max_job_log_lines: PositiveInt = LIMITS.log_lines
    max_job_log_bytes: PositiveInt = LIMITS.log_bytes
    max_job_points: PositiveInt = LIMITS.points
    max_attempt_uploads: PositiveInt = LIMITS.uploads
    """What a job may store of what its attempts report; docs/limits.md has the reasons."""
    max_registration_bytes: PositiveInt = 16 * MIB
    """A worker's catalogue holds the config schema of every component."""
    part_bytes: PositiveInt = PART_BYTES
    max_upload_bytes: PositiveInt = 1024 * 1024 * MIB
    reserve_bytes: NonNegativeInt = 256 * MIB
    """What uploads leave free of the artifact store's disk: the database may lie there too."""

    allow_packages: bool = False
    """Whether users may upload component packages: their code runs on the workers, in a sandbox."""
    max_package_bytes: PositiveInt = 64 * MIB

    sweep_seconds: PositiveFloat = 3600.0
    """How often files and rows are looked for that nothing refers to."""
    keep_validations_seconds: PositiveFloat = 7 * 86_400.0
    """How long finished jobs of kind `validate` are kept."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"
    """`auto`: colours to a terminal, JSON to anything else."""

    @property
    def database(self) -> str:
        """The database's URL. Raises `StartRefused` where its password cannot be read."""
        if self.database_url is not None and self.database_password_file is not None:
            password = quote(_read(self.database_password_file, "password"), safe="")
            scheme, _, rest = self.database_url.partition("://")
            user, at, place = rest.partition("@")
            if not at or ":" in user:
                raise StartRefused(
                    "with a password file the database URL must have a user and no password: USER@HOST/NAME"
                )
            return f"{scheme}://{user}:{password}@{place}"
        return self.database_url or f"sqlite+aiosqlite:///{self.data_dir.absolute() / 'tapeworks.db'}"

    @property
    def report_limits(self) -> ReportLimits:
        """What a job may report."""
        return replace(
            LIMITS, events=self.max_job_events, event_bytes=self.max_job_event_bytes, points=self.max_job_points,
            log_lines=self.max_job_log_lines, log_bytes=self.max_job_log_bytes, uploads=self.max_attempt_uploads,
        )  # fmt: skip

    @property
    def artifacts(self) -> Path:
        """The root of the local artifact store."""
        return self.data_dir.absolute() / "artifacts"

    @property
    def loopback(self) -> bool:
        """Whether `host` can be reached from this machine only."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def first_key(self) -> str | None:
        """The key of the settings. Raises `StartRefused` where the file cannot be read or the key is too short."""
        if self.api_key is not None:
            key = self.api_key.get_secret_value().strip()
        elif self.api_key_file is not None:
            key = _read(self.api_key_file, "key")
        else:
            return None
        if len(key) < 16 or any(character.isspace() for character in key):
            raise StartRefused("the API key must be one word of at least 16 characters, e.g. tw_ and 40 random ones")
        return key


def _read(file: Path, what: str) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise StartRefused(f"cannot read the {what} file {file}: {error.strerror}") from error


def read_settings(given: Mapping[str, Any] | None = None) -> ServiceSettings:
    """The settings of the environment, and over them what is given. Raises `StartRefused` naming what is wrong."""
    try:
        return ServiceSettings(**(given or {}))
    except ValidationError as error:
        wrong = [
            f"{'TAPEWORKS_' if item['loc'][0] not in (given or {}) else ''}{str(item['loc'][0]).upper()}: {item['msg']}"
            for item in error.errors(include_url=False)
        ]
        raise StartRefused("; ".join(wrong)) from error
