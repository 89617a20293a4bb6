"""The container files name commands, ports, variables and files that exist."""

import importlib.util
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer
import yaml
from sqlalchemy import make_url

from tapeworks.cli.main import app, options
from tapeworks_service.api.health import router
from tapeworks_service.settings import ServiceSettings
from tapeworks_workers.settings import WorkerSettings
from tests.support.paths import ROOT

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILES = [ROOT / "service/Dockerfile", ROOT / "workers/Dockerfile"]
OURS = {name: service for name, service in COMPOSE["services"].items() if "build" in service}
OWN = {"PYTHONUNBUFFERED"}


def client_variables() -> set[str]:
    """Variables of the command line itself."""
    hints = get_type_hints(options, include_extras=True).values()
    return {str(info.envvar) for hint in hints for info in get_args(hint)[1:] if getattr(info, "envvar", None)}


def known_variables() -> set[str]:
    service = {f"TAPEWORKS_{name.upper()}" for name in ServiceSettings.model_fields}
    worker = {f"TAPEWORKS_WORKER_{name.upper()}" for name in WorkerSettings.model_fields}
    return service | worker | client_variables() | OWN | {"TAPEWORKS_RUNNER"}


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """(instruction, arguments), continued lines joined, comments left out."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [(line.split(None, 1)[0].upper(), line.split(None, 1)[1]) for line in joined.splitlines() if line.strip()]


def commands() -> set[str]:
    return {str(name) for name in typer.main.get_group(app).commands}


def test_the_command_line_is_known_to_read_its_variables() -> None:
    assert {"TAPEWORKS_URL", "TAPEWORKS_KEY", "TAPEWORKS_KEY_FILE"} <= client_variables()


def test_compose_sets_variables_that_exist() -> None:
    for name, service in OURS.items():
        assert set(service["environment"]) <= known_variables(), name


def test_compose_builds_files_and_stages_that_exist() -> None:
    for service in OURS.values():
        dockerfile = ROOT / service["build"]["dockerfile"]
        stages = [arguments.split()[-1] for word, arguments in instructions(dockerfile) if word == "FROM"]
        assert dockerfile in DOCKERFILES
        assert service["build"].get("target", stages[-1]) in stages


def test_compose_publishes_the_port_that_the_service_listens_on() -> None:
    service = COMPOSE["services"]["service"]
    port = int(service["environment"]["TAPEWORKS_PORT"])
    settings = ServiceSettings.model_validate(
        {name.removeprefix("TAPEWORKS_").lower(): value for name, value in service["environment"].items()}
    )
    assert settings.port == port == ServiceSettings.model_fields["port"].default
    assert [published.rsplit(":", 1)[-1] for published in service["ports"]] == [str(port)]
    for worker in (one for name, one in COMPOSE["services"].items() if name.startswith("worker")):
        environment = worker["environment"]
        assert environment["TAPEWORKS_WORKER_SERVER"] == environment["TAPEWORKS_URL"] == f"http://service:{port}"
        assert worker["depends_on"] == {"service": {"condition": "service_healthy"}}


def test_the_key_is_a_secret_file_for_all() -> None:
    assert COMPOSE["secrets"]["tapeworks_key"]["file"] == "./secrets/tapeworks_key"
    for service in OURS.values():
        assert service["secrets"][0] == "tapeworks_key"
        files = [value for name, value in service["environment"].items() if name.endswith("KEY_FILE")]
        assert files
        assert set(files) == {"/run/secrets/tapeworks_key"}
    assert "secrets/" in (ROOT / ".gitignore").read_text().split()


def test_the_database_is_postgresql_and_its_password_a_secret_file(tmp_path: Path) -> None:
    database, service = COMPOSE["services"]["database"], COMPOSE["services"]["service"]
    assert re.fullmatch(r"postgres:\d+-\w+", database["image"])
    secret = "/run/secrets/database_password"
    assert database["environment"]["POSTGRES_PASSWORD_FILE"] == secret
    assert service["environment"]["TAPEWORKS_DATABASE_PASSWORD_FILE"] == secret
    assert COMPOSE["secrets"]["database_password"]["file"] == "./secrets/database_password"
    assert "database_password" in database["secrets"]
    assert "database_password" in service["secrets"]
    assert service["depends_on"] == {"database": {"condition": "service_healthy"}}
    file = tmp_path / "password"
    file.write_text("s/c@r:t\n")
    url = make_url(
        ServiceSettings(
            database_url=service["environment"]["TAPEWORKS_DATABASE_URL"], database_password_file=file
        ).database
    )
    user, name = (database["environment"][f"POSTGRES_{part}"] for part in ("USER", "DB"))
    assert (url.username, url.password, url.host, url.database) == (user, "s/c@r:t", "database", name)
    assert "asyncpg" in (ROOT / "requirements/service.lock").read_text()


def test_the_gpu_worker_is_asked_for_and_reserves_its_devices() -> None:
    gpu = COMPOSE["services"]["worker-gpu"]
    assert gpu["profiles"] == ["gpu"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert "tensorflow" in (ROOT / "requirements/gpu.lock").read_text()
    assert "nvidia-cudnn" in (ROOT / "requirements/gpu.lock").read_text()


def test_workers_are_supervised_and_their_agents_are_checked() -> None:
    """A hanging agent is replaced inside its container: Docker restarts what ends, not what is unhealthy."""
    workers = [one for name, one in COMPOSE["services"].items() if name.startswith("worker")]
    assert len(workers) == 2
    for worker in workers:
        assert worker["healthcheck"]["test"] == ["CMD", "python", "-m", "tapeworks_workers.health"]
        assert worker["restart"] == "unless-stopped"
    assert importlib.util.find_spec("tapeworks_workers.health") is not None
    started = dict(instructions(ROOT / "workers/Dockerfile"))["CMD"]
    assert "tapeworks worker --supervise" in started


def test_volumes_are_declared_and_mounted_where_settings_point() -> None:
    for service in OURS.values():
        (volume,) = service["volumes"]
        name, path = volume.split(":")
        assert name in COMPOSE["volumes"]
        assert path in service["environment"].values()


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)
class TestDockerfile:
    def test_its_bases_are_pinned(self, dockerfile: Path) -> None:
        stages: set[str] = set()
        for word, arguments in instructions(dockerfile):
            if word == "FROM":
                base, *rest = arguments.split()
                assert base in stages or re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base), base
                stages.update(rest[1:])

    def test_it_installs_by_hash_only(self, dockerfile: Path) -> None:
        installs = [a for word, a in instructions(dockerfile) if word == "RUN" and "pip install" in a]
        for install in installs:
            assert "--require-hashes" in install or ("--no-deps" in install and "/wheels/" in install), install
        for lock in re.findall(r"-r (\S+)", " ".join(installs)):
            assert "--hash=sha256:" in (ROOT / lock).read_text()

    def test_it_copies_what_exists(self, dockerfile: Path) -> None:
        for word, arguments in instructions(dockerfile):
            if word == "COPY":
                assert all((ROOT / source).exists() for source in arguments.split()[:-1]), arguments

    def test_it_sets_variables_that_exist(self, dockerfile: Path) -> None:
        named = re.findall(r"(\w+)=", " ".join(a for word, a in instructions(dockerfile) if word == "ENV"))
        assert set(named) <= known_variables()

    def test_it_does_not_run_as_root(self, dockerfile: Path) -> None:
        final: dict[str, Any] = {}
        for word, arguments in instructions(dockerfile):
            if word == "FROM":
                name = arguments.split()[-1]
                final[name] = None
            elif word == "USER":
                final[name] = arguments
        targets = {"service": list(final)[-1:], "workers": ["cpu", "gpu"]}[dockerfile.parent.name]
        assert [final[target] for target in targets] == ["tapeworks"] * len(targets)

    def test_its_commands_and_checks_exist(self, dockerfile: Path) -> None:
        words = [(w, a) for w, a in instructions(dockerfile) if w in ("CMD", "HEALTHCHECK")]
        assert {word for word, _ in words} == {"CMD", "HEALTHCHECK"}
        text = " ".join(arguments for _, arguments in words)
        named = re.findall(r"tapeworks\"?,? \"?([a-z-]+)", text)
        assert set(named) <= commands()
        for module in re.findall(r"\"-m\", \"([\w.]+)\"", text):
            assert importlib.util.find_spec(module if "." in module else f"{module}.__main__") is not None
        for path in re.findall(r"127\.0\.0\.1:8000(/\w+)", text):
            assert path in {getattr(route, "path", None) for route in router.routes}
        assert named or "tapeworks_service" in text


def test_make_runs_the_two_commands_and_ci_calls_them() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"demo", "test", "check", "lock"} <= set(targets)
    called = re.findall(r"^make ([\w-]+)", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert called[-3:] == ["demo", "test", "test-rest"]
    assert set(called) <= set(targets)
