"""Ports for who will listen."""

import socket
from pathlib import Path

import pytest

from headrace.streams.errors import SettingsError
from headrace.streams.kafka import broker
from headrace.streams.kafka.broker import HOST, free_port, free_ports

OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")


def test_no_outgoing_connection_can_take_a_free_port() -> None:
    first = int(OUTGOING.read_text().split()[0]) if OUTGOING.exists() else 32_768
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert all(1_024 <= port < first for port in ports)


def test_a_port_that_is_taken_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        other = free_port()
        taken.bind((HOST, free_port()))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(broker, "LISTENED_PORTS", [port, other])
        assert {free_port() for _ in range(5)} == {other}
        monkeypatch.setattr(broker, "LISTENED_PORTS", [port])
        with pytest.raises(SettingsError, match=rf"cannot listen on {HOST}:{port}"):
            free_port()
