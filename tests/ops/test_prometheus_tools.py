"""Where the tests' Prometheus comes from; without any, a failure that says what to do."""

from pathlib import Path

import prometheus_tools
import pytest


def test_an_installed_one_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("prometheus", "promtool"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert prometheus_tools.find_or_download().promtool == tmp_path / "promtool"


def test_without_any_it_fails_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no Prometheus here, and no apt-get either
    monkeypatch.setattr(prometheus_tools, "CACHE", tmp_path / "cache" / "prometheus")
    with pytest.raises(RuntimeError, match=r"install it so that .+ are on PATH.+apt-get"):
        prometheus_tools.find_or_download()
    assert list((tmp_path / "cache").iterdir()) == []
