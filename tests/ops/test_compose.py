"""The compose file and the image: what they name exists, and nothing is open that need not be."""

import re
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml
from deployment import (
    COMPOSE,
    DEPLOY,
    OUR_IMAGE,
    ROLES,
    ROOT,
    TOKEN,
    command_error,
    image_environment,
    role_settings,
    text_files,
)

from headrace.streams import process
from headrace.streams.http import token_of
from headrace.streams.kafka import follower
from headrace.streams.learn.role import LAST_VERSION_LIMIT_S
from headrace.streams.settings import FILE_VARIABLE, PREFIX, Settings, load

SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"] == OUR_IMAGE]
ONE_SHOT = ["topics"]
PINNED = re.compile(r"[a-z0-9/.-]+:v?\d+\.\d+\.\d+(-[a-z0-9.-]+)?$")


def environment(service: str) -> dict[str, str]:
    """Return what a service is started with, where each ``${NAME:?...}`` has been exported."""
    given = {k: str(v) for k, v in SERVICES[service]["environment"].items()}
    return image_environment() | {
        name: TOKEN if value.startswith("${") else value for name, value in given.items()
    }


def settings_of(service: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in role_settings(environment(service)).items():
        monkeypatch.setenv(name, value)
    return load()


def mounts(service: str) -> dict[str, str]:
    """Return, by path in the container, what is mounted: a volume or folder, with its mode."""
    volumes = (volume.split(":", 1) for volume in SERVICES[service].get("volumes", []))
    return {rest.removesuffix(":ro"): f"{source}:{rest}" for source, rest in volumes}


def writable_folders(service: str) -> set[str]:
    volumes = {path for path, mount in mounts(service).items() if not mount.endswith(":ro")}
    return volumes | {entry.split(":")[0] for entry in SERVICES[service]["tmpfs"]}


def is_below(path: str, folders: set[str]) -> bool:
    return any(PurePosixPath(path).is_relative_to(folder) for folder in folders)


def test_it_starts_the_topics_and_both_roles() -> None:
    assert sorted(OURS) == sorted([*ONE_SHOT, *ROLES])


@pytest.mark.parametrize("service", OURS)
def test_every_command_exists(service: str) -> None:
    (command,) = SERVICES[service]["command"]
    assert command_error(command) == ""


@pytest.mark.parametrize("service", OURS)
def test_every_setting_is_known_and_in_range(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_of(service, monkeypatch).bootstrap == "kafka:19092"


def test_every_setting_named_in_any_file_exists() -> None:
    known = {PREFIX + field.upper() for field in Settings.model_fields} | {FILE_VARIABLE}
    named = {
        (path.relative_to(ROOT), name)
        for path in text_files()
        for name in re.findall(rf"\b{PREFIX}[A-Z][A-Z_]*\b", path.read_text())
    }
    assert {(path, name) for path, name in named if name not in known} == set()


def test_every_command_an_operator_is_told_exists() -> None:
    text = "".join(path.read_text() for path in text_files())
    told = set(re.findall(r"(?:`|^# +)headrace ([a-z-]+)", text, re.MULTILINE))
    assert {"dead-letters", "produce"} <= told
    assert {command for command in told if command_error(command)} == set()


@pytest.mark.parametrize("service", SERVICES)
def test_images_are_pinned(service: str) -> None:
    assert PINNED.match(SERVICES[service]["image"])


@pytest.mark.parametrize("role", ROLES)
def test_what_was_compiled_is_kept_from_start_to_start(role: str) -> None:
    folder = environment(role)["NUMBA_CACHE_DIR"]
    assert mounts(role)[folder] == f"compiled:{folder}"  # what is in memory goes with a container
    made = re.findall(r"install -d -o headrace .*", (DEPLOY / "Dockerfile").read_text())
    assert folder in " ".join(made).split()  # else the volume would be root's


def test_the_base_image_is_pinned() -> None:
    bases = re.findall(r"^FROM (\S+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert len(bases) == 2
    assert all(PINNED.match(base) for base in bases)


@pytest.mark.parametrize("service", SERVICES)
def test_ports_are_published_to_this_machine_only(service: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[service].get("ports", []))


@pytest.mark.parametrize("service", SERVICES)
def test_a_password_has_no_default(service: str) -> None:
    secrets = {
        name: value
        for name, value in SERVICES[service].get("environment", {}).items()
        if re.search("PASSWORD|SECRET|TOKEN", name)
    }
    assert all(re.fullmatch(r"\$\{[A-Z_]+:\?.+\}", value) for value in secrets.values())


def test_grafana_asks_who_you_are() -> None:
    grafana = SERVICES["grafana"]["environment"]
    assert "GF_SECURITY_ADMIN_PASSWORD" in grafana
    assert grafana["GF_AUTH_ANONYMOUS_ENABLED"] == "false"


@pytest.mark.parametrize("service", SERVICES)
def test_no_container_can_gain_rights(service: str) -> None:
    assert SERVICES[service]["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in SERVICES[service]["security_opt"]


@pytest.mark.parametrize("service", OURS)
def test_our_containers_cannot_change_themselves(service: str) -> None:
    assert SERVICES[service]["read_only"] is True


def test_our_image_runs_as_an_ordinary_user() -> None:
    users = re.findall(r"^USER (\d+):(\d+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert len(users) == 1
    assert all(int(number) >= 1000 for number in users[0])


@pytest.mark.parametrize("role", ROLES)
def test_what_a_role_writes_is_writable(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(role, monkeypatch)
    assert is_below(str(settings.data_dir), writable_folders(role))
    assert is_below(environment(role)["NUMBA_CACHE_DIR"], writable_folders(role))
    assert is_below(environment(role)["HOME"], writable_folders(role))


def test_learn_writes_the_models_that_adapt_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    stores = {role: settings_of(role, monkeypatch).store_url for role in ROLES}
    assert stores["adapt"] == stores["learn"]
    assert mounts("learn")[stores["learn"]] == f"models:{stores['learn']}"
    assert mounts("adapt")[stores["adapt"]] == f"models:{stores['adapt']}:ro"


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_mounted_exists(service: str) -> None:
    sources = {mount.split(":")[0] for mount in mounts(service).values()}
    folders = {source for source in sources if source.startswith("./")}
    assert sources - folders <= set(COMPOSE["volumes"])
    assert all((ROOT / folder).is_dir() for folder in folders)


@pytest.mark.parametrize("service", [s for s in SERVICES if s not in ONE_SHOT])
def test_every_lasting_service_is_restarted_and_has_a_health_check(service: str) -> None:
    has_own = "test" in SERVICES[service].get("healthcheck", {})
    is_in_image = service in OURS and "HEALTHCHECK" in (DEPLOY / "Dockerfile").read_text()
    assert has_own or is_in_image
    assert SERVICES[service]["restart"] == "unless-stopped"


@pytest.mark.parametrize("service", SERVICES)
def test_nothing_starts_before_what_it_needs(service: str) -> None:
    conditions = {
        needed: link["condition"]
        for needed, link in SERVICES[service].get("depends_on", {}).items()
    }
    expected = {
        needed: "service_completed_successfully" if needed in ONE_SHOT else "service_healthy"
        for needed in conditions
    }
    assert conditions == expected


@pytest.mark.parametrize("role", ROLES)
def test_the_health_check_asks_the_port_of_the_role(
    role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(role, monkeypatch)
    port = {"adapt": settings.adapt_port, "learn": settings.learn_port}[role]
    assert environment(role)["LIVE_URL"] == f"http://127.0.0.1:{port}/health/live"
    assert settings.http_host == "0.0.0.0"
    assert token_of(settings) == TOKEN


def test_prometheus_shows_the_token_that_the_roles_expect() -> None:
    secrets = SERVICES["prometheus"]["secrets"]
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    for job in config["scrape_configs"]:
        folder, _, name = job["authorization"]["credentials_file"].rpartition("/")
        assert folder == "/run/secrets"
        assert name in secrets
        (variable,) = {name for name in SERVICES[job["job_name"]]["environment"] if "TOKEN" in name}
        assert COMPOSE["secrets"][name] == {"environment": variable}


@pytest.mark.parametrize("role", ROLES)
def test_a_stop_leaves_time_to_stop_in_order(role: str) -> None:
    grace_s = int(SERVICES[role]["stop_grace_period"].removesuffix("s"))
    drain_s = max(process.DRAIN_LIMIT_S, LAST_VERSION_LIMIT_S)
    assert grace_s > drain_s + process.STOP_LIMIT_S + follower.STOP_LIMIT_S


def test_the_image_is_built_from_what_it_copies() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE)
        for source in line.split()[:-1]
    }
    allowed = re.findall(r"^!(.+)$", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    assert copied == set(allowed)
    assert all((ROOT / source).exists() for source in copied)
