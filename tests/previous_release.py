"""The release before this one, as it was built: for what both must understand of each other.

``python -m pip wheel --no-deps --wheel-dir tests/fixtures .`` builds the one that takes its place
once this release is out.
"""

import os
import zipfile
from pathlib import Path

FIXTURES = Path(__file__).parent / "fixtures"


def unpacked(folder: Path) -> dict[str, str]:
    """Unpack the release into a folder; return the environment of processes that are to run it."""
    (wheel,) = FIXTURES.glob("headrace-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    # What is on this path is found before what is installed.
    return {n: v for n, v in os.environ.items() if "HEADRACE" not in n} | {
        "PYTHONPATH": str(folder)
    }
