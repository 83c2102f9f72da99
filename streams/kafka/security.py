"""How this project's clients and brokers trust each other: from the settings, in one place.

aiokafka and kafka-python take the same arguments, and Faust's driver hands aiokafka its own.
"""

import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.streams.errors import SettingsError

if TYPE_CHECKING:
    from headrace.streams.settings import Settings

SECRETS = ("sasl_password", "http_token")  # each can be in a file as well: NAME_file
TLS_FILES = ("ssl_ca_file", "ssl_certificate_file", "ssl_key_file")


def check(settings: "Settings") -> None:
    """Refuse what would be ignored: who sets a password must not speak to brokers without.

    Raises:
        ValueError: settings do not go together; the text names the fix.
    """
    for secret in SECRETS:
        if getattr(settings, secret).get_secret_value() and getattr(settings, f"{secret}_file"):
            raise ValueError(f"set {secret} or {secret}_file, not both")
    protocol = settings.security_protocol
    given = [name for name in TLS_FILES if getattr(settings, name)]
    if given and not uses_tls(settings):
        raise ValueError(f"{given[0]} is set: set security_protocol=SSL or SASL_SSL as well")
    if settings.ssl_key_file and not settings.ssl_certificate_file:
        raise ValueError("ssl_key_file is set: set ssl_certificate_file as well")
    has_password = bool(settings.sasl_password.get_secret_value() or settings.sasl_password_file)
    if uses_sasl(settings) and not (settings.sasl_username and has_password):
        raise ValueError(
            f"security_protocol={protocol} needs sasl_username, and sasl_password or"
            " sasl_password_file"
        )
    if (settings.sasl_username or has_password) and not uses_sasl(settings):
        raise ValueError("a user or password is set: set security_protocol=SASL_SSL as well")


def uses_tls(settings: "Settings") -> bool:
    """Return whether brokers are spoken to through TLS."""
    return settings.security_protocol in ("SSL", "SASL_SSL")


def uses_sasl(settings: "Settings") -> bool:
    """Return whether brokers are shown a user and a password."""
    return settings.security_protocol in ("SASL_PLAINTEXT", "SASL_SSL")


def secret_of(settings: "Settings", name: str) -> str:
    """Return one of ``SECRETS``, from the settings or its file; empty if neither is set.

    Raises:
        SettingsError: the file cannot be read, or holds nothing.
    """
    given: str = getattr(settings, name).get_secret_value()
    path: str = getattr(settings, f"{name}_file")
    if given or not path:
        return given
    try:
        held = Path(path).read_text().strip()
    except (OSError, ValueError) as exc:  # not there, not ours to read, or not text
        reason = exc.strerror if isinstance(exc, OSError) else "it is not text"
        raise SettingsError(f"{name}_file={path} cannot be read: {reason}") from None
    if not held:
        raise SettingsError(f"{name}_file={path} is empty")
    return held


def client_options(settings: "Settings") -> dict[str, Any]:
    """Return what aiokafka's and kafka-python's clients take to reach the brokers.

    Raises:
        SettingsError: a file cannot be read, or is none of what it should be.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap,
        "security_protocol": settings.security_protocol,
    }
    if uses_tls(settings):
        options["ssl_context"] = tls_context(settings)
    if uses_sasl(settings):
        options |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": secret_of(settings, "sasl_password"),
        }
    return options


def tls_context(settings: "Settings") -> ssl.SSLContext:
    """Return what TLS connections are made with: brokers must prove that they have their names.

    Raises:
        SettingsError: a file cannot be read, or is none of what it should be.
    """
    for name in TLS_FILES:
        path = getattr(settings, name)
        try:
            if path:
                Path(path).read_bytes()
        except OSError as exc:  # OpenSSL would not say which file
            raise SettingsError(f"{name}={path} cannot be read: {exc.strerror}") from None
    try:
        context = ssl.create_default_context(cafile=settings.ssl_ca_file or None)
    except ssl.SSLError as exc:
        raise SettingsError(f"ssl_ca_file={settings.ssl_ca_file} is no PEM certificate") from exc
    certificate, key = settings.ssl_certificate_file, settings.ssl_key_file
    if certificate:
        try:
            # A key that is encrypted is refused; without a password OpenSSL would ask a terminal.
            context.load_cert_chain(certificate, key or None, password="")
        except ssl.SSLError as exc:
            raise SettingsError(
                f"ssl_certificate_file={certificate} and ssl_key_file={key or certificate} are no"
                " PEM certificate and its own key, not encrypted"
            ) from exc
    return context
