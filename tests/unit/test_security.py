"""Settings of security: what goes together, where secrets come from, and that none is shown."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from headrace.streams.cli.options import with_settings
from headrace.streams.errors import SettingsError
from headrace.streams.kafka.security import SECRETS, client_options, secret_of
from headrace.streams.settings import Settings, load

SECRET = "correct-horse-battery-staple"
SASL = {"security_protocol": "SASL_PLAINTEXT", "sasl_username": "me"}


@pytest.mark.parametrize(
    ("given", "fix"),
    [
        ({"sasl_username": "me"}, "set security_protocol=SASL_SSL as well"),
        ({"sasl_password": SECRET}, "set security_protocol=SASL_SSL as well"),
        ({"security_protocol": "SSL", "sasl_password": SECRET}, "set security_protocol=SASL_SSL"),
        ({"security_protocol": "SASL_SSL"}, "needs sasl_username, and sasl_password or"),
        (SASL, "needs sasl_username, and sasl_password or sasl_password_file"),
        ({"security_protocol": "SASL_SSL", "sasl_password": SECRET}, "needs sasl_username"),
        ({"ssl_ca_file": "ca"}, "ssl_ca_file is set: set security_protocol=SSL or SASL_SSL"),
        (
            SASL | {"sasl_password": SECRET, "ssl_key_file": "k"},
            "ssl_key_file is set: set security",
        ),
        ({"security_protocol": "SSL", "ssl_key_file": "k"}, "set ssl_certificate_file as well"),
        (SASL | {"sasl_password": SECRET, "sasl_password_file": "f"}, "_password_file, not both"),
        ({"http_token": SECRET, "http_token_file": "f"}, "http_token or http_token_file, not both"),
    ],
)
def test_what_would_be_ignored_is_an_error_that_says_the_fix(
    given: dict[str, Any], fix: str
) -> None:
    with pytest.raises(SettingsError) as refusal:
        load(given)
    assert fix in str(refusal.value)
    assert SECRET not in str(refusal.value)


def test_without_security_a_client_is_told_the_brokers_only() -> None:
    assert client_options(Settings()) == {
        "bootstrap_servers": "127.0.0.1:9092",
        "security_protocol": "PLAINTEXT",
    }


def test_a_password_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")  # most editors end the last line
    for given in ({"sasl_password": SECRET}, {"sasl_password_file": str(file)}):
        options = client_options(Settings(**SASL | given))
        assert options["sasl_plain_password"] == SECRET
        assert options["sasl_mechanism"] == "SCRAM-SHA-512"


def test_a_file_that_is_no_secret_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name, reason in (("absent", "No such file"), ("binary", "not text"), ("empty", "is empty")):
        with pytest.raises(SettingsError, match=rf"^http_token_file=.*{name}.*{reason}"):
            secret_of(Settings(http_token_file=str(tmp_path / name)), "http_token")


@pytest.mark.parametrize("name", ["ssl_ca_file", "ssl_certificate_file"])
def test_a_certificate_that_is_none_is_named(name: str, tmp_path: Path) -> None:
    file = tmp_path / "no.pem"
    with pytest.raises(SettingsError, match=f"{name}={file} cannot be read: No such file"):
        client_options(Settings(**{"security_protocol": "SSL", name: str(file)}))
    file.write_text("not a certificate")
    with pytest.raises(SettingsError, match=f"{name}={file} .*no PEM certificate"):
        client_options(Settings(**{"security_protocol": "SSL", name: str(file)}))


# ---------------------------------------------------------------------------------- nothing shown


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_in_no_text_of_the_settings(name: str) -> None:
    settings = Settings(**SASL | {"sasl_password": SECRET, "http_token": SECRET})
    texts = (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json())
    assert [text for text in texts if SECRET in text] == []
    assert name in repr(settings)  # it was there to be shown


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_of_the_wrong_kind_is_refused_without_being_told(
    name: str, tmp_path: Path
) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text(f"{name} = 12345678\n")  # TOML's whole number
    with pytest.raises(SettingsError, match=f"^{name}: Input should be a valid string") as refusal:
        load(file=str(file))
    assert "12345678" not in str(refusal.value)


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_not_taken_from_the_command_line(name: str) -> None:
    command = with_settings()(lambda settings: settings)
    with pytest.raises(SettingsError) as refusal:
        command(settings_file=None, assigned=(f"{name}={SECRET}",), bootstrap=None)
    assert f"set HEADRACE_{name.upper()}, or {name}_file" in str(refusal.value)
    assert SECRET not in str(refusal.value)


def test_a_refused_setting_beside_a_secret_does_not_tell_it() -> None:
    with pytest.raises(ValidationError) as refusal:
        Settings(**SASL | {"sasl_password": SECRET, "ssl_ca_file": "ca"})
    with pytest.raises(SettingsError) as ours:
        load(SASL | {"sasl_password": SECRET, "ssl_ca_file": "ca"})
    end = SECRET[-8:]  # of a long input, pydantic tells the beginning and the end
    assert end not in str(ours.value)
    assert end not in str(refusal.value)
