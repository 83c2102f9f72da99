"""Both roles over TLS, each as itself and with the documented rights only; and who is refused."""

from pathlib import Path
from typing import Any

import pytest
from roles_harness import RoleProcess, roles, shoppers
from secure_kafka import MECHANISMS, NOBODY, As, Certificates, SecureKafka

from headrace.streams.errors import BrokerRefusedError, StreamsError
from headrace.streams.guards import EXIT_REFUSED
from headrace.streams.kafka.access import Right, give, grant, rights_of
from headrace.streams.kafka.broker import HOST
from headrace.streams.kafka.clients import admin, outbox, reader
from headrace.streams.kafka.topics import create_topics, topics_of, users_changelog
from headrace.streams.settings import Settings
from headrace.streams.tools import consume
from headrace.streams.tools.produce import publish_events

pytestmark = pytest.mark.timeout(900)  # with the start of the node, on a loaded machine

N_EVENTS = 200
LIMIT_S = 60


@pytest.mark.parametrize("deployed", [*MECHANISMS, "TLS"], indirect=True)
def test_events_lead_to_lists_with_each_role_as_itself(deployed: As) -> None:
    # `roles` starts both with one environment, so each gets one of its own.
    with roles(deployed("learn"), "learn"), roles(deployed("adapt"), "adapt") as (adapt,):
        events = shoppers(N_EVENTS)
        assert publish_events(deployed("publisher"), events) == N_EVENTS
        adapt.until(lambda m: m.get("events_total") == N_EVENTS, "every event is applied")
        lists = list(consume.current_lists(deployed("reader")))
        assert {found.user for found in lists} == {event.user for event in events}
        assert adapt.stop() == 0


# ------------------------------------------------------------------------------------- rights

MAY_READ = {
    "admin": {"dead-letters"},
    "adapt": {"events", "items", "models", "deltas", "changelog"},
    "learn": {"events", "items", "models"},
    "publisher": set(),
    "reader": {"recommendations", "items"},
    NOBODY: set(),
}
MAY_WRITE = {
    "admin": {"events"},
    "adapt": {"recommendations", "dead-letters", "changelog"},
    "learn": {"models", "deltas"},
    "publisher": {"events", "items"},
    "reader": set(),
    NOBODY: set(),
}


def topics_by_noun(settings: Settings) -> dict[str, str]:
    changelog = users_changelog(settings)
    names = {t.name for t in topics_of(settings)} - {changelog}
    return {name.rpartition(".")[2]: name for name in names} | {"changelog": changelog}


def may_read(settings: Settings, topic: str) -> bool:
    try:
        with reader(settings, topic) as found:
            list(found.to_end())
    except StreamsError:
        return False
    return True


def may_write(settings: Settings, topic: str) -> bool:
    try:
        with outbox(settings, topic) as box:
            box.send(key="k", value=b"v")
    except StreamsError:
        return False
    return True


@pytest.mark.parametrize("role", MAY_READ)
def test_a_role_may_read_what_it_must_and_nothing_else(deployed: As, role: str) -> None:
    settings = deployed(role)
    topics = topics_by_noun(settings)
    assert {noun for noun, name in topics.items() if may_read(settings, name)} == MAY_READ[role]


@pytest.mark.parametrize("role", MAY_WRITE)
def test_a_role_may_write_what_it_must_and_nothing_else(deployed: As, role: str) -> None:
    settings = deployed(role)
    topics = topics_by_noun(settings)
    assert {noun for noun, name in topics.items() if may_write(settings, name)} == MAY_WRITE[role]


@pytest.mark.parametrize("role", ["adapt", "learn", "publisher", "reader", NOBODY])
def test_only_the_admin_may_create_a_topic(deployed: As, role: str) -> None:
    own = {"topic_prefix": f"{role}-made", "group": f"{role}-made"}
    settings = deployed(role).model_copy(update=own)
    with pytest.raises(StreamsError, match="cannot create topic"):
        create_topics(settings)


def test_only_who_may_alter_the_cluster_gives_rights(deployed: As) -> None:
    with pytest.raises(BrokerRefusedError, match=r"ClusterAuthorizationFailed.* alter the cluster"):
        grant(deployed("admin"), {"adapt": "User:me"})


def last_words(settings: Settings, role: str) -> str:
    """Return what a role says that is refused; it ends at once, with a status of its own."""
    process = RoleProcess(settings, role)
    try:
        assert process.child.wait(LIMIT_S) == EXIT_REFUSED
        return process.child.log_tail()
    finally:
        process.stop()


@pytest.mark.parametrize("role", ["adapt", "learn"])
def test_a_role_without_a_right_ends_and_names_it(
    deployed: As, secure_node: SecureKafka, role: str
) -> None:
    settings = deployed(NOBODY)
    principal = secure_node.access(NOBODY, "SCRAM-SHA-512")[0]
    operator = settings.model_copy(update=secure_node.with_certificate("operator"))
    give(operator, principal, [r for r in rights_of(settings, role) if r.kind == "topic"])
    expected = f"ended: this user may not Read the group {settings.group}-{role}: `headrace acls`"
    assert expected in last_words(settings, role)


def test_a_role_that_may_not_write_ends_and_says_so(deployed: As, secure_node: SecureKafka) -> None:
    settings = deployed(NOBODY)
    principal = secure_node.access(NOBODY, "SCRAM-SHA-512")[0]
    operator = settings.model_copy(update=secure_node.with_certificate("operator"))
    for right in rights_of(settings, "learn"):
        reading = tuple(operation for operation in right.operations if operation != "Write")
        give(operator, principal, [Right(right.kind, right.name, (*reading, "Describe"))])
    models = settings.topic("models")
    assert f"ended: this user may not Write the topic {models}:" in last_words(settings, "learn")


# ------------------------------------------------------------------------------------- no trust


def refused(settings: Settings) -> str:
    """Return why the tools and the roles are refused; nothing secret is in it."""
    with pytest.raises(BrokerRefusedError) as refusal, admin(settings):
        pass
    why, password = str(refusal.value), settings.sasl_password.get_secret_value()
    assert not password or password not in why
    return why


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("change", [{"sasl_password": "wrong"}, {"sasl_username": "who"}])
def test_a_wrong_password_or_user_is_named(
    secure_node: SecureKafka, mechanism: str, change: dict[str, Any]
) -> None:
    settings = Settings(**secure_node.with_password("adapt", mechanism) | change)
    why = refused(settings)
    assert f"does not take sasl_username={settings.sasl_username} with this password" in why
    assert f"sasl_mechanism={mechanism}" in why


def at(secure_node: SecureKafka, listener: str) -> dict[str, Any]:
    return {"bootstrap": f"{HOST}:{secure_node.ports[listener]}"}


def test_a_broker_that_nobody_known_vouches_for_is_not_spoken_to(
    secure_node: SecureKafka, tmp_path: Path
) -> None:
    given = secure_node.with_password("adapt", "PLAIN")
    other = Certificates(tmp_path / "other")
    for ca in ("", str(other.ca)):
        assert "not trusted" in refused(Settings(**given | {"ssl_ca_file": ca}))


def test_a_broker_of_another_name_is_not_spoken_to(secure_node: SecureKafka) -> None:
    named = {"bootstrap": f"localhost:{secure_node.ports['sasl_tls']}"}
    why = refused(Settings(**secure_node.with_password("adapt", "PLAIN") | named))
    assert "reach it by a name that its certificate has, or have one issued for localhost" in why


def test_without_a_certificate_that_is_known_to_it_a_broker_ends_the_connection(
    secure_node: SecureKafka, tmp_path: Path
) -> None:
    given = secure_node.with_certificate("adapt")
    foreign = Certificates(tmp_path / "other").issue("adapt")
    for certificate in ("", str(foreign)):
        why = refused(Settings(**given | {"ssl_certificate_file": certificate}))
        assert "ended the connection" in why
        assert "see ssl_certificate_file" in why


def test_a_protocol_that_is_not_the_listeners_names_the_one_that_is(
    secure_node: SecureKafka,
) -> None:
    password = secure_node.with_password("adapt", "SCRAM-SHA-512")
    certificate = secure_node.with_certificate("adapt")
    plain = {"security_protocol": "SASL_PLAINTEXT", "ssl_ca_file": ""}
    tls, sasl_tls, sasl = (at(secure_node, name) for name in ("tls", "sasl_tls", "sasl"))
    assert "set security_protocol=SSL or SASL_SSL" in refused(Settings(**tls))
    assert "set security_protocol=SASL_SSL" in refused(Settings(**password | plain | sasl_tls))
    assert "set security_protocol=PLAINTEXT or SASL_PLAIN" in refused(Settings(**password | sasl))
    assert "set security_protocol=SASL_SSL" in refused(Settings(**certificate | sasl_tls))
    assert "set security_protocol=SASL_PLAINTEXT" in refused(Settings(**sasl))
    other_mechanism = {"sasl_mechanism": "PLAIN"}
    why = refused(Settings(**password | plain | sasl | other_mechanism))
    assert "does not take sasl_mechanism=PLAIN" in why


def test_passwords_work_without_tls_too(secure_node: SecureKafka) -> None:
    password = secure_node.with_password("adapt", "SCRAM-SHA-512")
    plain = {"security_protocol": "SASL_PLAINTEXT", "ssl_ca_file": ""}
    with admin(Settings(**password | plain | at(secure_node, "sasl"))) as client:
        assert isinstance(client.list_topics(), list)
