"""What a bench prints says how to find it again."""

import json
from typing import Any

import pytest

from headrace.streams.bench.telling import tell_programs
from headrace.streams.settings import load


def asked_of(capsys: pytest.CaptureFixture[str], **values: Any) -> dict[str, Any]:
    tell_programs(load(values), "some", {"users": 5}, rows=[])
    asked: dict[str, Any] = json.loads(capsys.readouterr().out)["asked"]
    return asked


def test_changed_settings_are_told_with_what_was_asked(capsys: pytest.CaptureFixture[str]) -> None:
    changed = {"device": "cpu", "threads": 2, "action_weights": {"purchase": 2.0}}
    assert asked_of(capsys, **changed) == changed | {"users": 5}


def test_places_and_secrets_are_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    told = asked_of(
        capsys,
        device="cpu",
        bootstrap="broker:9",
        data_dir="/somewhere",
        security_protocol="SASL_SSL",
        sasl_username="me",
        sasl_password="secret",
        http_token="secret",
    )
    assert told == {"device": "cpu", "security_protocol": "SASL_SSL", "users": 5}
