"""Fuzz every decoder, guided by what of it was reached (atheris); print a table of findings.

    python tests/fuzz/fuzz.py --seconds 60 [DECODER ...]

Each runs in a process of its own, for so many seconds; bytes that lead to a finding, to more than
2 GB or to more than 10 s are left in `.fuzz/`. With ``--unguided``, all in this process, by
damaging the examples and what was read of the damaged: where there is no atheris, or little time.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(".fuzz")
LIMITS = ("-max_len=16384", "-rss_limit_mb=2048", "-timeout=10", "-len_control=20")


def fuzz_one(name: str) -> None:
    """Fuzz one decoder; does not return."""
    import atheris

    with atheris.instrument_imports(include=["headrace.streams"]):
        from decoders import DECODERS

    decoder = DECODERS[name]
    corpus = FOLDER / name.replace(" ", "-")
    corpus.mkdir(parents=True, exist_ok=True)
    for number, example in enumerate(decoder.examples()):
        (corpus / f"example-{number}").write_bytes(example)
    seconds = sys.argv[-1]
    atheris.Setup(
        [
            sys.argv[0],
            f"-max_total_time={seconds}",
            f"-artifact_prefix={FOLDER}/{name.replace(' ', '-')}-",
            *LIMITS,
            str(corpus),
        ],
        lambda data: decoder.check(data) and None,
    )
    atheris.Fuzz()


def run(name: str, seconds: int) -> dict[str, object]:
    """Return how often a decoder was tried, and what was found."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", name, str(seconds)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    said = done.stderr + done.stdout
    told = re.findall(r"Done (\d+) runs|^#(\d+)\s", said, re.MULTILINE)
    tried = max((int(one or other) for one, other in told), default=0)
    if done.returncode:
        print(said[-3000:], file=sys.stderr)
    return {"decoder": name, "tried": tried, "finding": done.returncode != 0}


def run_unguided(name: str, seconds: int) -> dict[str, object]:
    """Return how often a decoder was tried without guidance; a finding is raised."""
    from decoders import DECODERS, mutated

    decoder, draw = DECODERS[name], random.Random(name)
    examples, tried = list(decoder.examples()), 0
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        data = mutated(draw.choice(examples), draw)
        FOLDER.joinpath("last").write_bytes(data)
        tried += 1
        if decoder.check(data) and len(data) < 1_000:
            examples[draw.randrange(1, 200) :] = [data]
    return {"decoder": name, "tried": tried, "finding": False}


def main() -> None:
    """Fuzz all, or those named; exit with 1 if anything was found."""
    if sys.argv[1:2] == ["--one"]:
        fuzz_one(sys.argv[2])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("decoders", nargs="*")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--unguided", action="store_true")
    asked = parser.parse_args()
    from decoders import DECODERS

    FOLDER.mkdir(exist_ok=True)
    found = []
    for name in asked.decoders or DECODERS:
        found.append((run_unguided if asked.unguided else run)(name, asked.seconds))
        print(json.dumps(found[-1]), flush=True)
    sys.exit(any(one["finding"] for one in found))


if __name__ == "__main__":
    main()
