"""The README says what the code does: its tables are checked against it."""

import re
from pathlib import Path

import pytest

from headrace.streams.cli.main import main
from headrace.streams.kafka.access import TO_CREATE, TOPICS, rights_of
from headrace.streams.kafka.topics import topics_of
from headrace.streams.settings import Settings

README = (Path(__file__).parents[2] / "README.md").read_text()


def _rows(heading: str) -> list[list[str]]:
    """Return the cells of the first table under a heading."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def test_settings_table_is_that_of_the_code() -> None:
    expected = []
    for name, field in Settings.model_fields.items():
        default = str(field.get_default(call_default_factory=True))
        expected.append([f"`{name}`", f"`{default}`" if default else "empty", field.description])
    assert _rows("Settings") == expected


def test_rights_table_is_that_of_the_code() -> None:
    settings, letters = (
        Settings(),
        {"Read": "R", "Write": "W", "DescribeConfigs": "C", "Describe": "D"},
    )
    expected: dict[str, dict[str, str]] = {}
    for role in TOPICS:
        for right in rights_of(settings, role):
            if right.operations != TO_CREATE:  # said once below the table
                name = f"`{right.name}`" if right.kind == "topic" else f"group `{right.name}`"
                given = " ".join(letters[operation] for operation in right.operations)
                expected.setdefault(name, dict.fromkeys(TOPICS, "–"))[role] = given
    assert {
        row[0]: dict(zip(TOPICS, row[1:], strict=True)) for row in _rows("Security")
    } == expected


def test_topics_table_names_every_topic() -> None:
    documented = {row[0].strip("`") for row in _rows("Topics")}
    topics = {topic.name for topic in topics_of(Settings())}
    assert documented == {name for name in topics if not name.endswith("-changelog")}


def test_commands_table_names_every_command() -> None:
    documented = set(re.findall(r"`headrace ([a-z-]+)", " ".join(r[0] for r in _rows("Commands"))))
    assert documented == set(main.commands)


@pytest.mark.parametrize("target", re.findall(r"`make ([a-z-]+)`", README))
def test_make_targets_exist(target: str) -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_first_screen_reaches_a_result_in_25_lines() -> None:
    assert any("NDCG@10" in line for line in README.splitlines()[:25])
