"""The roles run as compose runs them: no capability, a read-only root, the image's variables."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from deployment import COMPOSE, ROLES, TOKEN, image_environment
from roles_harness import SMALL, STOP_LIMIT_S

from headrace.streams.child import Child
from headrace.streams.kafka.broker import EmbeddedBroker, free_ports
from headrace.streams.kafka.topics import create_topics
from headrace.streams.settings import Settings
from headrace.streams.up import environment_of

POLL_S = 2.0  # each look starts an interpreter
READY_LIMIT_S = (
    1_200.0  # each compiles everything anew: a minute of one core, or many of a busy one
)
FOLDER = "/var/lib/headrace"
# $1 is the folder of the models, and the rest what to run. 1. The models, which both roles see, and
# the folders that compose says are in memory, behind which the project itself would go if it is in
# one of them. 2. All else can only be read. 3. Nothing more can be gained. A namespace of its own,
# in which even an ordinary user may mount, ends with the process.
IN_CONTAINER = f"""
set -e
models=$1; shift
mount -t tmpfs tmpfs /var/lib
mkdir -p {FOLDER}/models {FOLDER}/data /var/lib/project
mount --bind "$models" {FOLDER}/models
mount --bind "$PWD" /var/lib/project
for folder in $IN_MEMORY; do mount -t tmpfs tmpfs $folder; done
mkdir -p "$PWD"
mount --bind /var/lib/project "$PWD"
mount -o remount,ro,bind "$PWD"
mount -o remount,ro,bind /var/lib
mount -o remount,ro,bind /
exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""
WRITE_ELSEWHERE = (  # "! touch" would never end a shell, not even with -e
    'for f in / /usr /var/lib /var/lib/headrace "$PWD"; do'
    ' if touch "$f/x"; then exit 1; fi; done 2>/dev/null'
)


def in_container(role: str, models: Path, *command: str) -> list[str]:
    in_memory = " ".join(entry.split(":")[0] for entry in COMPOSE["services"][role]["tmpfs"])
    script = f"IN_MEMORY='{in_memory}'; {IN_CONTAINER}"
    return [
        "unshare",
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        script,
        "sh",
        str(models),
        *command,
    ]


def environment(settings: Settings) -> dict[str, str]:
    """Return the variables of the roles: ours, and what the image says of folders and addresses."""
    image = {k: v for k, v in image_environment().items() if k != "PATH"}
    own = {"HEADRACE_HTTP_TOKEN": TOKEN}
    return os.environ | environment_of(settings) | image | own


def test_nothing_but_the_writable_folders_can_be_written(tmp_path: Path) -> None:
    command = in_container("adapt", tmp_path, "sh", "-ec", f"{WRITE_ELSEWHERE}; touch /tmp/x")
    subprocess.run(command, check=True, timeout=60)


@pytest.mark.timeout(1_500)
def test_both_roles_become_ready_and_stop_in_order(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    with EmbeddedBroker() as broker:
        ports = dict(zip(ROLES, free_ports(2), strict=True))
        settings = Settings(
            bootstrap=broker.bootstrap,
            adapt_port=ports["adapt"],
            learn_port=ports["learn"],
            **SMALL,
        )
        create_topics(settings)
        running = {
            role: Child(
                in_container(role, models, sys.executable, "-m", "headrace.streams", role),
                env=environment(settings),
            )
            for role in ROLES
        }
        try:
            for role, child in running.items():
                url = f"http://127.0.0.1:{ports[role]}/health/ready"
                check = [sys.executable, "-m", "headrace.streams.health", url]
                deadline = time.monotonic() + READY_LIMIT_S
                while subprocess.run(
                    check, env=environment(settings), stderr=subprocess.DEVNULL, check=False
                ).returncode:
                    assert child.poll() is None, child.log_tail()
                    if time.monotonic() > deadline:
                        pytest.fail(child.log_tail())
                    time.sleep(POLL_S)  # HTTP offers nothing to wait for
        finally:
            for child in running.values():
                child.hang_up()
            statuses = {role: child.stop(limit_s=STOP_LIMIT_S) for role, child in running.items()}
        assert statuses == dict.fromkeys(ROLES, 0)
        assert list(models.glob("*.safetensors"))
