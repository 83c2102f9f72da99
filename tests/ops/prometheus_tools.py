"""A real Prometheus for the tests: the installed one, or Debian's package unpacked in .tools."""

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from deployment import ROOT

CACHE = ROOT / ".tools" / "prometheus"
DOWNLOAD_LIMIT_S = 240


@dataclass(frozen=True, slots=True)
class PrometheusTools:
    """Where the two programs are."""

    prometheus: Path
    promtool: Path


def find_or_download() -> PrometheusTools:
    """Return the programs: from PATH, from the cache, or from Debian.

    Raises:
        RuntimeError: they cannot be had; the text holds what apt said.
    """
    installed = shutil.which("prometheus"), shutil.which("promtool")
    if installed[0] and installed[1]:
        return PrometheusTools(Path(installed[0]), Path(installed[1]))
    if not CACHE.exists():
        _unpack_from_debian()
    return PrometheusTools(CACHE / "usr/bin/prometheus", CACHE / "usr/bin/promtool")


def _unpack_from_debian() -> None:
    """Download and unpack without installing: this needs no root, unless apt's lists are missing.

    1. Download. 2. If that fails, refresh apt's lists and download again. 3. Unpack beside the
    cache. 4. Rename: another test run sees the whole of it or nothing.
    """
    CACHE.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE.parent) as folder:
        download = ["apt-get", "download", "prometheus"]
        if _run(download, folder).returncode:  # 1
            _run(["apt-get", "update"], folder)  # 2
            again = _run(download, folder)
            if again.returncode:
                raise RuntimeError(
                    "no Prometheus: install it so that prometheus and promtool are on PATH, "
                    f"or make `apt-get download prometheus` work. It said: {again.stderr}"
                )
        (package,) = Path(folder).glob("prometheus_*.deb")
        unpacked = Path(folder) / "unpacked"
        unpack = _run(["dpkg", "-x", package.name, unpacked.name], folder)  # 3
        if unpack.returncode:
            raise RuntimeError(f"{package.name} cannot be unpacked: {unpack.stderr}")
        if not CACHE.exists():
            unpacked.rename(CACHE)  # 4


def _run(command: list[str], folder: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_LIMIT_S / 3,
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as exc:
        return subprocess.CompletedProcess(command, 1, "", str(exc))
