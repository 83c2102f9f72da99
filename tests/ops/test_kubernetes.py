"""The Kubernetes manifests: the same rules as for compose, and what only a cluster gets wrong."""

import re
from typing import Any

import pytest
import yaml
from deployment import DEPLOY, OUR_IMAGE, ROLES, command_error, image_environment, role_settings

from headrace.streams import process
from headrace.streams.errors import SettingsError
from headrace.streams.http import token_of
from headrace.streams.kafka import follower
from headrace.streams.learn.role import LAST_VERSION_LIMIT_S
from headrace.streams.settings import Settings, load

FOLDER = DEPLOY / "kubernetes"
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
OBJECTS: dict[tuple[str, str], dict[str, Any]] = {
    (thing["kind"], thing["metadata"]["name"]): thing
    for file in KUSTOMIZATION["resources"]
    for thing in yaml.safe_load_all((FOLDER / file).read_text())
}
HEALTH_CHECK = ["python", "-m", "headrace.streams.health"]
OWNERS = {
    "topics": OBJECTS["Job", "headrace-topics"],
    "adapt": OBJECTS["Deployment", "headrace-adapt"],
    "learn": OBJECTS["StatefulSet", "headrace-learn"],
}


def pod(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = OWNERS[name]["spec"]["template"]["spec"]
    return spec


def container(name: str) -> dict[str, Any]:
    (only,) = pod(name)["containers"]
    return dict(only)


def port_of(role: str, settings: Settings) -> int:
    return {"adapt": settings.adapt_port, "learn": settings.learn_port}[role]


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    environment = image_environment() | OBJECTS["ConfigMap", "headrace-settings"]["data"]
    for name, value in role_settings(environment).items():
        monkeypatch.setenv(name, value)
    return load()


def test_every_manifest_is_applied() -> None:
    files = {file.name for file in FOLDER.glob("*.yaml")}
    assert set(KUSTOMIZATION["resources"]) == files - {"kustomization.yaml"}


def test_every_setting_is_known_and_in_range(settings: Settings) -> None:
    assert settings.replication == 3  # one broker may fail


@pytest.mark.parametrize("name", OWNERS)
def test_every_command_exists(name: str) -> None:
    (command,) = container(name)["args"]
    assert command_error(command) == ""


@pytest.mark.parametrize("name", OWNERS)
def test_every_container_runs_our_image_with_our_settings(name: str) -> None:
    assert container(name)["image"] == OUR_IMAGE
    settings = [
        each["configMapRef"] for each in container(name)["envFrom"] if "secretRef" not in each
    ]
    assert [("ConfigMap", source["name"]) in OBJECTS for source in settings] == [True]


@pytest.mark.parametrize("name", OWNERS)
def test_kubernetes_adds_no_settings_of_its_own(name: str) -> None:
    # For a service headrace-x it would set HEADRACE_X_PORT and more: unknown settings are errors.
    assert pod(name)["enableServiceLinks"] is False


@pytest.mark.parametrize("name", OWNERS)
def test_containers_cannot_change_themselves(name: str) -> None:
    user = pod(name)["securityContext"]
    assert user["runAsNonRoot"] is True
    assert f"USER {user['runAsUser']}:{user['runAsGroup']}" in (DEPLOY / "Dockerfile").read_text()
    assert container(name)["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod(name)["automountServiceAccountToken"] is False


@pytest.mark.parametrize("role", ROLES)
def test_probes_ask_the_port_of_the_role(role: str, settings: Settings) -> None:
    # In the container, which has the token: a node that asked by HTTP could not show it.
    probes = {
        name: container(role)[f"{name}Probe"]["exec"]["command"]
        for name in ("startup", "liveness", "readiness")
    }
    check = [*HEALTH_CHECK, f"http://127.0.0.1:{port_of(role, settings)}/health"]
    assert probes == {
        "startup": [*check[:-1], f"{check[-1]}/live"],
        "liveness": [*check[:-1], f"{check[-1]}/live"],
        "readiness": [*check[:-1], f"{check[-1]}/ready"],
    }
    assert container(role)["ports"] == [{"name": "http", "containerPort": port_of(role, settings)}]
    assert settings.http_host == "0.0.0.0"
    with pytest.raises(SettingsError, match="set http_token"):
        token_of(settings)


SECRETS = {"adapt": "headrace-adapt", "learn": "headrace-learn", "topics": "headrace-admin"}


@pytest.mark.parametrize("name", OWNERS)
def test_every_container_has_its_own_secret_and_the_operator_is_told_of_it(name: str) -> None:
    told = (FOLDER / "kustomization.yaml").read_text()
    (secret,) = [each["secretRef"] for each in container(name)["envFrom"] if "secretRef" in each]
    assert secret["name"] == SECRETS[name]
    assert SECRETS[name] in told
    assert secret.get("optional", False) == (name == "topics")  # which nobody asks by HTTP


@pytest.mark.parametrize("name", OWNERS)
def test_certificates_are_where_the_settings_look_for_them(name: str) -> None:
    (folder,) = [m["mountPath"] for m in container(name)["volumeMounts"] if m["name"] == "tls"]
    (volume,) = [v["secret"] for v in pod(name)["volumes"] if v["name"] == "tls"]
    assert f"HEADRACE_SSL_CA_FILE: {folder}/ca.crt" in (FOLDER / "settings.yaml").read_text()
    assert volume["optional"] is True
    assert volume["defaultMode"] == 0o440
    assert pod(name)["securityContext"]["fsGroup"] == pod(name)["securityContext"]["runAsGroup"]


@pytest.mark.parametrize("role", ROLES)
def test_prometheus_is_told_the_port_of_the_role(role: str, settings: Settings) -> None:
    annotations = OWNERS[role]["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(port_of(role, settings)),
    }


@pytest.mark.parametrize("role", ROLES)
def test_selectors_select_their_own_pods(role: str) -> None:
    spec = OWNERS[role]["spec"]
    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]


def test_there_is_one_writer_of_models_and_its_service_exists() -> None:
    assert OWNERS["learn"]["spec"]["replicas"] == 1
    service = OBJECTS["Service", OWNERS["learn"]["spec"]["serviceName"]]
    assert service["spec"]["selector"] == OWNERS["learn"]["spec"]["selector"]["matchLabels"]


def test_no_adapt_worker_stands_idle(settings: Settings) -> None:
    assert 2 <= OWNERS["adapt"]["spec"]["replicas"] <= settings.partitions


@pytest.mark.parametrize("role", ROLES)
def test_what_is_mounted_exists_and_what_is_written_is_mounted(
    role: str, settings: Settings
) -> None:
    volumes = {volume["name"] for volume in pod(role)["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in container(role)["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == volumes
    assert mounts[str(settings.data_dir)]["name"] == "data"
    assert mounts[settings.store_url]["name"] == "models"
    assert mounts[settings.store_url].get("readOnly", False) == (role == "adapt")
    assert image_environment()["NUMBA_CACHE_DIR"].startswith("/tmp/")
    assert "/tmp" in mounts


@pytest.mark.parametrize("role", ROLES)
def test_both_roles_share_one_claim_for_models(role: str) -> None:
    claims = [v["persistentVolumeClaim"] for v in pod(role)["volumes"] if v["name"] == "models"]
    assert [("PersistentVolumeClaim", claim["claimName"]) in OBJECTS for claim in claims] == [True]


@pytest.mark.parametrize("role", ROLES)
def test_a_stop_leaves_time_to_stop_in_order(role: str) -> None:
    grace_s = pod(role)["terminationGracePeriodSeconds"]
    drain_s = max(process.DRAIN_LIMIT_S, LAST_VERSION_LIMIT_S)
    assert grace_s > drain_s + process.STOP_LIMIT_S + follower.STOP_LIMIT_S


def test_nothing_secret_is_written_down() -> None:
    assert "Secret" not in {kind for kind, _ in OBJECTS}
    names = " ".join(OBJECTS["ConfigMap", "headrace-settings"]["data"])
    assert re.findall("PASSWORD|SECRET|TOKEN|KEY", names) == []
