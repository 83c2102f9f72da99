"""Settings: which source wins, and that a wrong name or value is an error that says the fix."""

import os
from contextlib import suppress
from pathlib import Path

import pytest

from headrace.streams.errors import SettingsError
from headrace.streams.kafka.topics import topics_of
from headrace.streams.settings import Settings, load


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("HEADRACE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a settings file that sets two settings."""
    path = tmp_path / "headrace.toml"
    path.write_text('partitions = 2\ngroup = "from-file"\n')
    return path


def test_defaults_hold_where_nothing_is_said() -> None:
    assert load() == Settings()
    assert load().partitions == 4


def test_flag_beats_environment_beats_file_beats_default(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(file=str(file)).partitions == 2
    monkeypatch.setenv("HEADRACE_PARTITIONS", "3")
    assert load(file=str(file)).partitions == 3
    assert load({"partitions": "5"}, file=str(file)).partitions == 5
    assert load(file=str(file)).group == "from-file"
    assert load(file=str(file)).replication == 1


def test_unset_flag_leaves_the_others_their_say(file: Path) -> None:
    assert load({"partitions": None}, file=str(file)).partitions == 2


def test_file_may_be_named_in_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_SETTINGS", str(file))
    assert load().group == "from-file"


def test_case_of_an_environment_variable_does_not_matter(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("headrace_partitions", "3")
    assert load(file=str(file)).partitions == 3


def test_map_is_replaced_and_not_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "headrace.toml"
    path.write_text("[leave_out]\npurchase = 5\n")
    assert load(file=str(path)).leave_out == {"purchase": 5}
    monkeypatch.setenv("HEADRACE_LEAVE_OUT", '{"view": 1}')
    assert load(file=str(path)).leave_out == {"view": 1}
    assert load({"leave_out": {"click": 2}}, file=str(path)).leave_out == {"click": 2}


def test_settings_made_by_hand_do_not_read_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_PARTITIONS", "3")
    assert Settings().partitions == 4


def test_versions_are_not_further_apart_than_deltas_are_kept() -> None:
    with pytest.raises(SettingsError, match=r"version_interval_s.*3600"):
        load({"version_interval_s": "86400"})


def test_unknown_flag_names_the_nearest() -> None:
    with pytest.raises(
        SettingsError, match="unknown setting 'partitons'; did you mean 'partitions'"
    ):
        load({"partitons": 3})


def test_unknown_variable_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_BOOTSTRAPS", "a:1")
    with pytest.raises(
        SettingsError, match="unknown setting 'HEADRACE_BOOTSTRAPS'; did you mean 'bootstrap'"
    ):
        load()


def test_unknown_variable_that_is_near_nothing_names_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEADRACE_XYZZY", "1")
    with pytest.raises(SettingsError, match="unknown setting 'HEADRACE_XYZZY'; the README lists"):
        load()


def test_variable_that_should_be_a_map_says_how_one_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEADRACE_LEAVE_OUT", "purchase")
    with pytest.raises(
        SettingsError, match=r'HEADRACE_LEAVE_OUT is no JSON map, such as \{"purchase": 5\}'
    ):
        load()


def test_unknown_line_in_the_file_names_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "headrace.toml"
    path.write_text("seeds = 1\n")
    with pytest.raises(SettingsError, match="unknown setting 'seeds'; did you mean 'seed'"):
        load(file=str(path))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("partitions", 0),
        ("partitions", "many"),
        ("topic_prefix", "my shop"),
        ("topic_prefix", ""),
        ("group", "shop/1"),
        ("group_instance_id", "worker 1"),
        ("session_timeout_s", 5.9),
        ("pause_limit_s", 0.9),  # a role that runs looks every 0.2 s, or a little later
        ("compression", "rar"),
        ("list_length", 201),
        ("log_level", "loud"),
        ("adapt_port", 65_536),
        ("leave_out", {"purchase": "all"}),
        ("leave_out", {"purchase": -2}),
        ("seed", 2**63),
        ("target_action", "buy"),
        ("action_weights", {"purchase": -1}),
        ("action_weights", {"purchase": float("nan")}),
        ("action_weights", {"buy": 2}),
        ("action_weights", {"": 2}),
        ("action_weights", {"cart": 2, "add_to_cart": 3}),
    ],
)
def test_value_out_of_range_is_named_with_its_meaning(name: str, value: object) -> None:
    with pytest.raises(SettingsError) as refusal:
        load({name: value})
    assert str(refusal.value).startswith(f"{name}=")
    assert str(Settings.model_fields[name].description) in str(refusal.value)


def test_rebalance_limit_covers_two_sessions() -> None:
    assert load({"session_timeout_s": 30}).rebalance_limit_s == 60
    assert load({"session_timeout_s": 40, "rebalance_limit_s": 80}).session_timeout_s == 40
    with pytest.raises(SettingsError) as refusal:
        load({"session_timeout_s": 40})
    assert "set rebalance_limit_s to 80 or more" in str(refusal.value)
    assert "or session_timeout_s=40 to 30 or less" in str(refusal.value)


def test_a_width_that_the_heads_cannot_share_is_refused_with_both() -> None:
    assert load({"encoder_width": 33, "encoder_heads": 3}).encoder_width == 33
    with pytest.raises(SettingsError, match=r"encoder_width=33 is not a multiple of .*heads=2"):
        load({"encoder_width": 33})


def test_a_refused_session_is_all_that_is_said_of_it() -> None:
    with pytest.raises(SettingsError, match="session_timeout_s='long'") as refusal:
        load({"session_timeout_s": "long"})
    assert "rebalance_limit_s" not in str(refusal.value)


def test_value_out_of_range_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_PARTITIONS", "0")
    with pytest.raises(SettingsError, match="partitions='0'"):
        load()


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.toml cannot be read: No such file"):
        load(file=str(tmp_path / "absent.toml"))
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        load(file=str(tmp_path))
    (tmp_path / "damaged.toml").write_bytes(b"partitions = \xff")
    with pytest.raises(SettingsError, match=r"damaged\.toml is not TOML"):
        load(file=str(tmp_path / "damaged.toml"))


def test_a_table_of_settings_in_the_file_is_told_from_a_map(tmp_path: Path) -> None:
    path = tmp_path / "headrace.toml"
    path.write_text("[headrace]\npartitions = 2\n")
    with pytest.raises(SettingsError, match=r"\[headrace\]: settings stand at the top of the file"):
        load(file=str(path))
    path.write_text("[leav_out]\npurchase = 5\n")
    with pytest.raises(SettingsError, match="did you mean 'leave_out'"):
        load(file=str(path))


def test_settings_cannot_be_changed_under_way() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().partitions = 8  # type: ignore[misc] # that it is refused is the test


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_store_is_in_the_data_folder_unless_named() -> None:
    assert load({"data_dir": "d"}).store_url == "d/models"
    assert load({"model_store": "s3://bucket/models"}).store_url == "s3://bucket/models"


def test_topic_is_prefixed() -> None:
    assert load({"topic_prefix": "shop"}).topic("dead-letters") == "shop.dead-letters"


@pytest.mark.parametrize("name", ["topic_prefix", "group"])
def test_the_longest_topic_has_a_name_that_kafka_takes(name: str) -> None:
    lengths = [length for length in range(250) if is_taken(name, "s" * length)]
    longest = load({name: "s" * max(lengths)})
    assert max(len(topic.name) for topic in topics_of(longest)) == 249


def is_taken(name: str, value: str) -> bool:
    """Return whether a setting may have a value."""
    with suppress(SettingsError):
        load({name: value})
        return True
    return False


def test_a_file_nested_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("leave_out = " + "[" * 100_000)
    with pytest.raises(SettingsError, match="is not TOML"):
        load(file=str(path))
