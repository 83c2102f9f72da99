"""The image's health check, run as Docker would run it, against the server that the roles run."""

import json
import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from deployment import DEPLOY, TOKEN

from headrace.streams.http import serve

CHECK = re.search(
    r"^HEALTHCHECK (?:.*\\\n)\s*CMD (\[.+\])$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE
)


def exit_code_of_check(port: int, **variables: str) -> int:
    assert CHECK
    program, *arguments = json.loads(CHECK[1])
    assert program == "python"
    url = f"http://127.0.0.1:{port}/health/live"
    # A proxy for everything must not come between: Docker may hand one to every container.
    environment = os.environ | {"LIVE_URL": url, "http_proxy": "http://192.0.2.1:1", "no_proxy": ""}
    environment |= variables
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, env=environment, stderr=subprocess.DEVNULL, timeout=120, check=False
    ).returncode


@pytest.mark.parametrize(("is_live", "exit_code"), [(True, 0), (False, 1)])
def test_it_passes_exactly_when_the_role_is_live(is_live: bool, exit_code: int) -> None:
    with closing(serve("127.0.0.1", 0, is_live=lambda: is_live, is_ready=lambda: True)) as handle:
        assert exit_code_of_check(handle.port) == exit_code


def test_it_shows_the_token_of_the_role(tmp_path: Path) -> None:
    file, settings = tmp_path / "token", tmp_path / "settings.toml"
    file.write_text(f"{TOKEN}\n")
    well: dict[str, Any] = {"is_live": lambda: True, "is_ready": lambda: True}
    with closing(serve("127.0.0.1", 0, token=TOKEN, **well)) as handle:
        assert exit_code_of_check(handle.port, HEADRACE_HTTP_TOKEN=TOKEN) == 0
        assert exit_code_of_check(handle.port, HEADRACE_HTTP_TOKEN_FILE=str(file)) == 0
        assert exit_code_of_check(handle.port, HEADRACE_HTTP_TOKEN=TOKEN[:-1]) == 1
        assert exit_code_of_check(handle.port) == 1
        for line in (f'http_token = "{TOKEN}"', f'http_token_file = "{file}"'):
            settings.write_text(f"{line}\n")
            assert exit_code_of_check(handle.port, HEADRACE_SETTINGS=str(settings)) == 0
        settings.write_text(f'http_token = "{TOKEN[:-1]}"\n')  # the environment wins
        both = {"HEADRACE_SETTINGS": str(settings), "HEADRACE_HTTP_TOKEN": TOKEN}
        assert exit_code_of_check(handle.port, **both) == 0


def test_it_fails_when_nothing_answers() -> None:
    handle = serve("127.0.0.1", 0, is_live=lambda: True, is_ready=lambda: True)
    handle.close()
    assert exit_code_of_check(handle.port) == 1
