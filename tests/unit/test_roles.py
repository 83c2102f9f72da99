"""The roles' processes: how they start."""

import logging

import pytest

from headrace.streams.broker import free_port
from headrace.streams.guards import EXIT_UNAVAILABLE
from headrace.streams.roles import require_broker
from headrace.streams.settings import Settings
from headrace.streams.up import NEVER_AGAIN


def test_role_without_a_broker_names_the_address_and_may_be_started_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    address = f"127.0.0.1:{free_port()}"
    with caplog.at_level(logging.ERROR), pytest.raises(SystemExit) as ended:
        require_broker(Settings(bootstrap=address))
    assert ended.value.code == EXIT_UNAVAILABLE != NEVER_AGAIN
    assert f"no broker answers at {address}: start one with `headrace broker`" in caplog.text
