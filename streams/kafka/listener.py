"""Is there a broker at the address, and do we trust each other? Said at once, and in words.

Kafka's clients try again until their limit whatever the reason is, and then name none.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from kafka.cluster import collect_hosts

from headrace.streams.errors import (
    BrokerRefusedError,
    BrokerUnreachableError,
    SettingsError,
    StreamsError,
)
from headrace.streams.kafka.security import client_options, uses_sasl, uses_tls
from headrace.streams.settings import Settings

CONNECT_LIMIT_S = 5.0  # a broker that lives answers within milliseconds
# ApiVersions 0, which every broker answers to anyone: length, api key, version, correlation id, no
# client id.
HELLO = struct.pack(">ihhih", 10, 18, 0, 0, -1)
NO_SUCH_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


def require_listener(settings: Settings) -> None:
    """Fail at once where no broker listens, or none that we trust and that trusts us.

    Raises:
        BrokerUnreachableError: nothing listens at any address.
        BrokerRefusedError: no trust at any that listens; the text says why.
        SettingsError: what should be an address, a file or a certificate is none.
    """
    options = client_options(settings)
    failure: OSError | StreamsError | None = None
    for host, port in _addresses(settings):
        try:
            with socket.create_connection((host, port), CONNECT_LIMIT_S) as plain:
                if "ssl_context" in options:
                    _shake_hands(options["ssl_context"], plain, host, port)
            if uses_sasl(settings):
                _show_password(settings, host, port)
        except (OSError, BrokerRefusedError, BrokerUnreachableError) as exc:
            failure = exc
        else:
            return
    if isinstance(failure, StreamsError):
        raise failure
    in_tls, doubt = "", ""
    if uses_tls(settings):
        in_tls = " in TLS"
        asked = f"security_protocol={settings.security_protocol}"
        doubt = f"; if one does listen there, is it for {asked}?"
    raise BrokerUnreachableError(
        f"no broker answers at {settings.bootstrap}{in_tls}: start one with `headrace broker`,"
        f" or name another with --bootstrap HOST:PORT{doubt}"
    ) from failure


def explain_silence(settings: Settings) -> BrokerRefusedError | BrokerUnreachableError:
    """Return why a listener did not answer a client as a broker does."""
    at = f"the broker at {settings.bootstrap}"
    if not uses_tls(settings) and any(map(_speaks_tls, _addresses(settings))):
        tls = "SASL_SSL" if uses_sasl(settings) else "SSL or SASL_SSL"
        return BrokerRefusedError(f"{at} speaks TLS: set security_protocol={tls}")
    if not uses_sasl(settings) and any(
        _asks_for_password(settings, *address) for address in _addresses(settings)
    ):
        sasl = "SASL_SSL" if uses_tls(settings) else "SASL_PLAINTEXT"
        return BrokerRefusedError(
            f"{at} asks for a user and a password: set security_protocol={sasl}, sasl_mechanism,"
            " sasl_username, and sasl_password or sasl_password_file"
        )
    return BrokerUnreachableError(
        f"what listens at {settings.bootstrap} does not answer: is it a Kafka broker, and for"
        f" security_protocol={settings.security_protocol}?"
    )


def _addresses(settings: Settings) -> Iterator[tuple[str, int]]:
    try:
        if "://" in settings.bootstrap:
            raise ValueError("a URL")
        hosts = collect_hosts(settings.bootstrap)
        if not all(host.encode("idna") and 0 < port < 2**16 for host, port, _ in hosts):
            raise ValueError("an address that nothing can listen at")
    except ValueError as exc:
        raise SettingsError(
            f"bootstrap={settings.bootstrap!r} is not HOST:PORT[,HOST:PORT...]"
        ) from exc
    yield from ((host, port) for host, port, _ in hosts)


def _shake_hands(context: ssl.SSLContext, plain: socket.socket, host: str, port: int) -> None:
    """Exchange certificates, and one request: a broker refuses ours only when it is asked.

    Raises:
        BrokerRefusedError: either side was not convinced, or the other does not speak TLS.
    """
    at = f"the broker at {host}:{port}"
    try:
        speaking = context.wrap_socket(plain, server_hostname=host)
    except ssl.SSLCertVerificationError as exc:
        if exc.verify_code in NO_SUCH_NAME:
            cure = f"reach it by a name that its certificate has, or have one issued for {host}"
        else:
            cure = "name who signed it with ssl_ca_file"
        raise BrokerRefusedError(
            f"{at} has a certificate that is not trusted ({exc.verify_message}): {cure}"
        ) from exc
    except TimeoutError:
        raise  # it may be starting
    except OSError as exc:
        raise BrokerRefusedError(
            f"{at} does not speak TLS as we do ({_reason(exc)}): set security_protocol=PLAINTEXT or"
            " SASL_PLAINTEXT, or name its TLS listener with --bootstrap"
        ) from exc
    with speaking:
        try:
            speaking.sendall(HELLO)
            refusal = "" if speaking.recv(1) else "it hung up"
        except TimeoutError:
            raise
        except OSError as exc:
            refusal = _reason(exc)
    if refusal:
        raise BrokerRefusedError(
            f"{at} ended the connection ({refusal}): it may ask for a certificate of ours that it"
            " trusts, see ssl_certificate_file"
        )


def _show_password(settings: Settings, host: str, port: int) -> None:
    """Authenticate once, with aiokafka: kafka-python keeps the broker's answer to itself.

    Raises:
        BrokerRefusedError: the broker was not convinced.
        BrokerUnreachableError: it did not answer.
    """
    from aiokafka.conn import create_conn
    from aiokafka.errors import (
        IllegalSaslStateError,
        KafkaError,
        SaslAuthenticationFailed,
        UnsupportedSaslMechanismError,
    )

    options = client_options(settings)
    del options["bootstrap_servers"]

    async def authenticate() -> None:
        async with asyncio.timeout(CONNECT_LIMIT_S):
            connection = await create_conn(host, port, **options)
            await connection.close()

    mechanism, without = settings.sasl_mechanism, "SSL" if uses_tls(settings) else "PLAINTEXT"
    refusals: dict[type[KafkaError], str] = {
        UnsupportedSaslMechanismError: f"does not take sasl_mechanism={mechanism}: set another",
        IllegalSaslStateError: f"asks for no password: set security_protocol={without}",
        SaslAuthenticationFailed: f"does not take sasl_username={settings.sasl_username} with this"
        f" password: check both, and that the user is known for sasl_mechanism={mechanism}",
    }
    try:
        # The caller may be inside an event loop, which a thread of our own is not.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, authenticate()).result()
    except tuple(refusals) as exc:
        raise BrokerRefusedError(f"the broker at {host}:{port} {refusals[type(exc)]}") from exc
    except KafkaError as exc:
        raise explain_silence(settings) from exc


def _reason(exc: OSError) -> str:
    """Return what went wrong, without the place in OpenSSL's source."""
    return str(getattr(exc, "reason", None) or exc.strerror or exc).replace("_", " ").lower()


def _speaks_tls(address: tuple[str, int]) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent
    try:
        with socket.create_connection(address, CONNECT_LIMIT_S) as plain:
            context.wrap_socket(plain, server_hostname=address[0]).close()
    except OSError:
        return False
    return True


def _asks_for_password(settings: Settings, host: str, port: int) -> bool:
    """Return whether the broker hangs up on who greets it twice: the second time is for SASL."""
    context = client_options(settings).get("ssl_context")
    try:
        with socket.create_connection((host, port), CONNECT_LIMIT_S) as plain:
            talking = context.wrap_socket(plain, server_hostname=host) if context else plain
            with talking:
                heard = talking.makefile("rb")
                talking.sendall(HELLO)
                length, correlation = struct.unpack(">ii", heard.read(8))
                if correlation:  # no answer to our greeting: this is no broker
                    return False
                heard.read(length - 4)
                talking.sendall(HELLO)
                return not heard.read(1)
    except (OSError, struct.error):
        return False
