"""Rights by role, as they are printed. What brokers make of them: test_kafka_secure.py."""

import pytest
from click.testing import CliRunner

from headrace.streams.cli.main import main
from headrace.streams.kafka.access import TOPICS, command_lines, rights_of
from headrace.streams.kafka.broker import EmbeddedBroker
from headrace.streams.kafka.topics import topics_of
from headrace.streams.settings import Settings


def test_each_right_is_a_call_of_kafkas_own_tool() -> None:
    settings = Settings(bootstrap="b:9093", topic_prefix="shop", group="g")
    add = "kafka-acls.sh --bootstrap-server b:9093 --command-config admin.properties --add"
    add_web = f"{add} --allow-principal 'User:CN=web,O=a shop'"
    assert list(command_lines(settings, {"reader": "User:CN=web,O=a shop"})) == [
        "# reader",
        f"{add_web} --operation Read --topic shop.recommendations",
        f"{add_web} --operation Read --topic shop.items",
    ]
    assert list(command_lines(settings, {"learn": "User:l"}))[-1] == (
        f"{add} --allow-principal User:l --operation Read --group g-learn"
    )


def test_the_admin_may_create_every_topic_and_nobody_else_any() -> None:
    settings = Settings()
    creators = {
        role: {right.name for right in rights_of(settings, role) if "Create" in right.operations}
        for role in TOPICS
    }
    everything = {topic.name for topic in topics_of(settings)}
    assert creators == {role: set() for role in TOPICS} | {"admin": everything}


def test_all_roles_are_printed_each_with_its_own_user() -> None:
    printed = CliRunner().invoke(main, ["acls", "--principal", "adapt=User:mine"]).output
    assert [line for line in printed.splitlines() if line.startswith("#")] == [
        f"# {role}" for role in TOPICS
    ]
    assert "--allow-principal User:mine --operation Read --group headrace-adapt" in printed
    assert "--allow-principal User:headrace-learn" in printed


@pytest.mark.parametrize("text", ["adapt", "adapt=", "cook=User:me"])
def test_a_principal_of_no_role_is_refused(text: str) -> None:
    refusal = CliRunner().invoke(main, ["acls", "--principal", text])
    assert refusal.exit_code == 2
    assert "it must be ROLE=PRINCIPAL" in refusal.output


def test_the_embedded_broker_is_told_no_password_of_another() -> None:
    given = Settings(security_protocol="SASL_SSL", sasl_username="u", sasl_password="p", seed=7)
    broker = EmbeddedBroker(9)
    assert broker.settings(given) == Settings(bootstrap="127.0.0.1:9", seed=7)
