"""What containers run to ask whether they are well: ``python -m headrace.streams.health URL``.

It shows the token of the role, from the same variables or the file that HEADRACE_SETTINGS names,
and ends with 0 if the answer is 200. It is run every few seconds, so it needs nothing but the
standard library.
"""

import os
import sys
import tomllib
import urllib.request
from pathlib import Path

LIMIT_S = 4.0


def main(url: str) -> None:
    """Ask, and raise for any answer but 200; a proxy for everything does not come between."""
    file = os.environ.get("HEADRACE_SETTINGS")
    in_file = tomllib.loads(Path(file).read_text()) if file else {}
    path = os.environ.get("HEADRACE_HTTP_TOKEN_FILE", in_file.get("http_token_file"))
    given = os.environ.get("HEADRACE_HTTP_TOKEN", in_file.get("http_token", ""))
    token = Path(path).read_text().strip() if path else given
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=LIMIT_S)


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else os.environ["LIVE_URL"])
    except KeyError:
        sys.exit("not healthy: name what to ask, as an argument or as LIVE_URL")
    except OSError as exc:  # of urllib, too
        sys.exit(f"not healthy: {exc}")
