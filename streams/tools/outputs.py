"""Output files of long commands: refused before the work begins if they cannot be written."""

from pathlib import Path

from headrace.streams.errors import InputFileError


def require_writable(path: str | Path) -> None:
    """Refuse a file that could not be written; what is in one that is there stays.

    Raises:
        InputFileError: it is a folder, or is in none, or may not be written.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputFileError(f"{path}: there is no such folder")
    try:
        is_new = not path.exists()
        path.open("ab").close()
        if is_new:
            path.resolve().unlink()  # a link stays
    except OSError as exc:
        raise InputFileError(f"{path}: cannot be written: {exc.strerror}") from exc
