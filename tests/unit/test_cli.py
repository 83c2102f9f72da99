"""The command line without a broker: help that teaches, flags from settings, errors on one line."""

import base64
import errno
import json
import socket
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import click
import msgpack
import pytest
from click.testing import CliRunner
from rich.cells import cell_len

from headrace.streams.cli.bench import bench
from headrace.streams.cli.bench_kafka import with_broker_and_settings
from headrace.streams.cli.main import main
from headrace.streams.cli.options import is_given, with_settings
from headrace.streams.errors import SettingsError
from headrace.streams.kafka.broker import free_port
from headrace.streams.kafka.record_batches import StandIn, Unreadable
from headrace.streams.records import Reason, Recommendation, Source
from headrace.streams.settings import Settings
from headrace.streams.tools.consume import as_json, as_text
from headrace.streams.tools.set_aside import SetAside, set_aside
from headrace.streams.tools.set_aside import as_json as letter_json
from headrace.streams.tools.set_aside import as_text as letter_text

COMMANDS = sorted(main.commands)
BENCHES = sorted(bench.commands)

SHOW_HELP_THEN_MODULES = """
import sys
from headrace.streams.cli.main import main
main(["--help"], prog_name="headrace", standalone_mode=False)
print("MODULES", *sys.modules)
"""


def run(*arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
    """Run a command line; return its exit code, standard output and standard error."""
    result = CliRunner().invoke(main, arguments, input=stdin)
    return result.exit_code, result.stdout, result.stderr


# ------------------------------------------------------------------------------------------ help


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_shows_an_example_and_names_the_next_step(name: str) -> None:
    code, out, _ = run(name, "--help")
    assert code == 0
    assert f"headrace {name}" in out.split("Example:")[1]
    assert "Next:" in out


@pytest.mark.parametrize("name", BENCHES)
def test_help_of_a_bench_does_so_too(name: str) -> None:
    code, out, _ = run("bench", name, "--help")
    assert code == 0
    assert f"headrace bench {name}" in out.split("Example:")[1]
    assert "Next:" in out


@pytest.mark.parametrize(
    "command", [*main.commands.values(), *bench.commands.values()], ids=lambda c: c.name
)
def test_every_option_is_explained(command: click.Command) -> None:
    options = [p for p in command.params if isinstance(p, click.Option)]
    assert [option.name for option in options if not option.help] == []


def test_overview_lists_every_command_in_the_order_of_use() -> None:
    _, out, _ = run("--help")
    lines = out.split("Commands:\n")[1].splitlines()
    assert [line for line in lines if line.endswith("...")] == []  # a summary fits its line
    listed = [line.split()[0] for line in lines]
    assert sorted(listed) == COMMANDS
    assert listed.index("broker") < listed.index("topics") < listed.index("produce")


def test_help_names_the_default_of_each_setting_in_words() -> None:
    _, out, _ = run("evaluate", "--help")
    told = " ".join(out.split())
    assert "(HEADRACE_ACTION_WEIGHTS; empty if not set)" in told
    assert "(HEADRACE_SEED; 0 if not set)" in told


def test_help_is_quick_because_it_loads_neither_model_nor_streaming() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SHOW_HELP_THEN_MODULES],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    loaded = {module.split(".")[0] for module in ran.stdout.split("MODULES")[1].split()}
    assert "headrace" in loaded
    assert loaded.isdisjoint({"torch", "faust", "kafka", "polars", "numba", "rich"})


def test_package_runs_as_a_module() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "headrace.streams", "--version"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert ran.stdout.startswith("headrace ")


# ------------------------------------------------------------------------------------- settings


@click.command()
@with_settings("partitions", "leave_out", "meta_learning")
@click.option("--own", default="")
def show(settings: Settings, own: str) -> None:
    """Print what a command was given."""
    click.echo(f"{settings.partitions} {settings.leave_out} {settings.meta_learning} {own}")


def shown(*arguments: str) -> str:
    """Return what ``show`` prints, or the error it ends with."""
    result = CliRunner().invoke(show, arguments)
    return result.stdout.strip() if result.exit_code == 0 else str(result.exception)


def test_flags_set_settings_and_leave_a_command_its_own() -> None:
    flags = ["--partitions", "8", "--leave-out", '{"purchase": 5}', "--meta-learning", "anil"]
    assert shown(*flags, "--own", "x") == "8 {'purchase': 5} anil x"


def test_any_setting_can_be_assigned() -> None:
    assert shown("-s", "partitions=8", "-s", "meta-learning=maml") == "8 {} maml"


def test_settings_come_from_a_file_too(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("partitions = 2\n")
    assert shown("--settings", str(tmp_path / "s.toml")) == "2 {} fomaml"
    assert shown("--settings", str(tmp_path / "s.toml"), "--partitions", "3") == "3 {} fomaml"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-s", "partitons=8"], "did you mean 'partitions'"),
        (["-s", "partitions"], "given as NAME=VALUE"),
        (["--leave-out", "purchase"], "is not JSON"),
        (["--partitions", "0"], "greater than or equal to 1"),
    ],
)
def test_wrong_setting_is_explained(arguments: list[str], message: str) -> None:
    assert message in shown(*arguments)


@pytest.mark.parametrize(
    ("arguments", "is_one"),
    [([], False), (["--bootstrap", "a:1"], True), (["-s", "bootstrap=a:1"], True)],
)
def test_a_broker_to_measure_on_is_given_in_either_way(arguments: list[str], is_one: bool) -> None:
    @click.command()
    @with_broker_and_settings()
    def measure(settings: Settings) -> None:
        click.echo(f"{settings.bootstrap} {is_given('bootstrap')}")

    out = CliRunner().invoke(measure, arguments).stdout
    assert out == ("a:1 True\n" if is_one else "127.0.0.1:9092 False\n")


def test_a_command_that_takes_no_broker_offers_none() -> None:
    offering = [
        name
        for name, command in {**main.commands, **bench.commands}.items()
        if any(parameter.name == "bootstrap" for parameter in command.params)
    ]
    assert {"demo", "broker", "evaluate", "growth", "rank"}.isdisjoint(offering)
    assert {"topics", "pipeline", "soak"} <= set(offering)


# --------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["topics", "--bootstrap", "nonsense:x"], "is not HOST:PORT"),
        (["topics", "--bootstrap", "http://localhost:9092"], "is not HOST:PORT"),
        (["topics", "--bootstrap", ""], "bootstrap='' is not HOST:PORT"),
        (["topics", "--bootstrap", ":9092"], "is not HOST:PORT"),
        (["topics", "--bootstrap", "kafka..svc:9092"], "is not HOST:PORT"),
        (["topics", "--bootstrap", "localhost:9092,"], "is not HOST:PORT"),
        (["topics", "--bootstrap", "localhost:65536"], "is not HOST:PORT"),
        (["topics", "-s", "sede=1"], "did you mean 'seed'"),
        (["produce", "nowhere.csv"], "nowhere.csv: there is no such file"),
        (["produce", "--items", "nowhere.csv"], "nowhere.csv: there is no such file"),
        (["evaluate", "e.tsv", "--save", "nowhere/m"], "nowhere/m: there is no such folder"),
        (["evaluate", "e.tsv", "--save", "."], ".: cannot be written: Is a directory"),
        (["replay", "nowhere.pdf"], "nowhere.pdf: there is no such file"),
    ],
)
def test_error_is_one_line_that_names_the_cause(arguments: list[str], message: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("headrace: ")
    assert message in err


def test_a_full_disk_is_said_in_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "headrace.streams", "acls"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    assert (ran.returncode, ran.stderr) == (2, "headrace: no space left for the output\n")


@pytest.mark.parametrize("role", ["adapt", "learn"])
def test_a_role_that_finds_a_disk_full_is_to_be_started_again(
    monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    def fill_the_disk(_: Settings, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr("headrace.streams.roles.as_process", nullcontext)  # pytest's is no role's
    monkeypatch.setattr(f"headrace.streams.roles.run_{role}", fill_the_disk)
    result = CliRunner().invoke(main, [role])
    assert isinstance(result.exception, OSError)  # which ends Python with another status than 2


def test_a_user_who_can_keep_no_compiled_loops_is_told_where_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compile_one(_: Settings) -> None:
        import numba

        # As on a read-only system: no place is one to write to.
        monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])
        numba.njit(cache=True)(lambda: 0)

    monkeypatch.setattr("headrace.streams.roles.as_process", nullcontext)
    monkeypatch.setattr("headrace.streams.roles.run_adapt", compile_one)
    code, _, err = run("adapt")
    assert code == 2
    assert "set NUMBA_CACHE_DIR to a folder" in err


def test_more_workers_than_partitions_are_refused() -> None:
    code, _, err = run("up", "--workers", "3", "--partitions", "2")
    assert code == 2
    assert "--workers 2 at most" in err


def test_a_port_that_is_taken_is_named_and_what_listens_there_may_be_a_broker_to_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, _, err = run("broker", "--port", str(port))
        with pytest.raises(SettingsError, match=r"choose another with --port$"):
            free_port(port)  # as the demo says it, which takes no other broker
    assert code == 2
    assert err.endswith(f"--port, or use what listens there with --bootstrap 127.0.0.1:{port}\n")


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["broker", "--port", "80000"], "--port"),
        (["demo", "--port", "-1"], "--port"),
        (["demo", "--rate", "0"], "--rate"),
        (["demo", "--seconds", "0"], "--seconds"),
        (["demo", "--seconds", "inf"], "--seconds"),
        (["replay", "e.tsv", "--speed", "nan"], "--speed"),
        (["bench", "soak", "--minutes", "nan"], "--minutes"),
        (["evaluate", "e.tsv", "--permute-items", "nan"], "--permute-items"),
    ],
)
def test_a_number_that_makes_no_sense_is_a_usage_error(arguments: list[str], flag: str) -> None:
    code, _, err = run(*arguments)
    assert (code, f"Invalid value for '{flag}'" in err) == (2, True)


@pytest.mark.parametrize("command", ["topics", "consume", "dead-letters"])
def test_missing_broker_is_named_with_the_command_that_starts_one(command: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    code, _, err = run(command, "--bootstrap", address)
    assert code == 2
    assert err == (
        f"headrace: no broker answers at {address}: start one with `headrace broker`,"
        " or name another with --bootstrap HOST:PORT\n"
    )


def test_where_no_broker_answers_in_tls_the_listener_may_be_another() -> None:
    address = f"127.0.0.1:{free_port()}"
    code, _, err = run("topics", "--bootstrap", address, "-s", "security_protocol=SSL")
    assert code == 2
    assert err.startswith(f"headrace: no broker answers at {address} in TLS: start one")
    assert err.endswith("; if one does listen there, is it for security_protocol=SSL?\n")


def test_typed_events_that_are_none_are_refused() -> None:
    code, _, err = run("produce", "-", stdin="user\titem\n")
    assert (code, err) == (2, "headrace: -: there are no events in it; nothing was published\n")


@pytest.mark.parametrize(
    ("arguments", "name", "text"),
    [
        (["produce"], "e.csv", "user,item,event,timestamp\nu,i,view,1\nu,i,view,soon\n"),
        (["replay"], "e.csv", "user,item,event,timestamp\nu,i,view,1\nu,i,view,soon\n"),
        (["produce", "--items"], "i.csv", "item,price\na,1\nb,cheap\n"),
    ],
)
def test_where_a_row_is_refused_nothing_is_published(
    tmp_path: Path, arguments: list[str], name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    code, _, err = run(*arguments, str(tmp_path / name))
    assert code == 2
    assert "row 2" in err
    assert err.endswith("; nothing was published\n")


def test_lists_of_nobody_are_not_asked_for() -> None:
    code, _, err = run("consume", "--user", "")
    assert code == 2
    assert "--user is empty: name one, or leave it out" in err


def test_replay_has_one_pace() -> None:
    code, _, err = run("replay", "events.csv", "--rate", "5", "--speed", "5")
    assert code == 2
    assert "not both" in err


# ----------------------------------------------------------------------------------- what is shown

LIST = Recommendation(
    user="u1",
    rec_id="u1-2-15",
    items=("a", "bb"),
    scores=(0.75, 0.5),
    reasons=(
        Reason(signal="next", share=0.625, because="bb"),
        Reason(signal="popularity", share=1.0, because=None),
    ),
    model_version=3,
    source=Source(topic="headrace.events", partition=2, offset=15, time_ms=1),
    generated_ms=1_500_000_000_000,
)


def test_list_is_shown_with_titles_scores_and_reasons() -> None:
    assert as_text(LIST, {"a": "Tea"}).splitlines() == [
        "u1  2017-07-14 02:40:00 UTC  model 3  after headrace.events/2@15",
        "   1. Tea     0.750  62% often next after bb",
        "   2. bb      0.500  100% popular",
    ]


def test_lines_of_a_list_fit_the_terminal() -> None:
    titles = {"a": "绿茶" * 50, "bb": "Tea of the hills, in bags"}
    assert as_text(LIST, titles, width=60).splitlines()[1:] == [
        "   1. 绿茶绿茶绿茶绿 …     0.750  62% often next after Tea …",  # letters of two cells
        "   2. Tea of the hill…     0.500  100% popular",
    ]
    for width in range(1, 200):
        assert max(map(cell_len, as_text(LIST, titles, width=width).splitlines()[1:])) <= width


def test_a_title_is_whole_where_there_is_room_or_no_terminal() -> None:
    for n_letters, width in ((40, 90), (150, None)):
        assert f" {'x' * n_letters} " in as_text(LIST, {"a": "x" * n_letters}, width=width)


def test_list_without_reasons_or_items_is_shown_too() -> None:
    bare = Recommendation(
        user="u1",
        rec_id="u1-2-15",
        items=(),
        scores=(),
        reasons=(),
        model_version=3,
        source=LIST.source,
        generated_ms=LIST.generated_ms,
    )
    head = as_text(LIST, {}).splitlines()[0]
    assert as_text(bare, {}).splitlines() == [
        head,
        "   (nothing to list yet; their next event, or a refresh, makes a new list)",
    ]


def test_a_title_cannot_move_the_cursor_or_fill_the_screen() -> None:
    first = as_text(LIST, {"a": "\x1b[2Jtea\n" + "x" * 1_000_000}).splitlines()[1]
    assert "\\x1b[2Jtea\\nxxx" in first
    assert len(first) < 1_000


def test_list_for_programs_is_one_line_of_json() -> None:
    line = as_json(LIST)
    assert "\n" not in line
    assert line.startswith('{"user": "u1", "rec_id": "u1-2-15", "items": ["a", "bb"]')


def test_dead_letter_shows_bytes_that_are_no_text_escaped() -> None:
    letter = SetAside(
        reason="undecodable",
        detail="neither msgpack nor \x1b[2JJSON",
        topic="headrace.events",
        partition=1,
        offset=7,
        time_ms=1_000,
        omitted=(),
        key=None,
        value=b"\xffa\n" + b"x" * 300,
    )
    assert letter_text(letter).splitlines() == [
        "headrace.events/1@7  undecodable: neither msgpack nor \\x1b[2JJSON",
        "  key   (none)",
        "  value \\xffa\\n" + "x" * 197 + " ... (303 bytes)",
    ]


def test_dead_letter_that_cannot_be_read_back_says_why() -> None:
    value = Unreadable.of("too_large", "a record of 1005 headers, of at most 1000")
    letter = set_aside(StandIn(offset=3, timestamp=5, value=value))
    assert letter_text(letter).splitlines()[0] == (
        "None/None@None  too_large: a record of 1005 headers, of at most 1000"
    )


def test_dead_letter_for_programs_is_whole_on_one_line_of_json() -> None:
    place = {"topic": "headrace.events", "partition": 1, "offset": 7, "time_ms": 5, "omitted": []}
    why = {"reason": "missing_field", "detail": "no item"}
    text = '{"user": "Ä"}\n' + "x" * 300
    line = letter_json(SetAside(**place, **why, key=None, value=text.encode()))
    assert line.isprintable()
    assert json.loads(line) == {**why, **place, "key": None, "value": text}
    told = json.loads(letter_json(SetAside(**place, **why, key=b"", value=b"\xff")))
    assert told.keys() == {*why, *place, "key", "value_base64"}
    assert (told["key"], base64.b64decode(told["value_base64"])) == ("", b"\xff")


@pytest.mark.parametrize(
    ("fields", "as_json_too"),
    [
        ({"user": "Ä", "item": ""}, True),
        ({"user": b"\xff"}, False),
        ({"t": msgpack.Timestamp(1)}, False),
    ],
)
def test_dead_letter_of_msgpack_is_told_as_json_if_that_can_say_it(
    fields: dict[str, object], as_json_too: bool
) -> None:
    value = msgpack.packb(fields)
    told = json.loads(letter_json(set_aside(StandIn(offset=3, timestamp=5, value=value))))
    assert base64.b64decode(told["value_base64"]) == value
    assert ("value" in told) is as_json_too
    if as_json_too:
        assert json.loads(told["value"]) == fields
