"""Every setting of every role: the one place that reads the environment.

Later sources win: defaults, the TOML file named by ``HEADRACE_SETTINGS`` or ``--settings``, the
environment (``HEADRACE_<FIELD>``), flags. An unknown name is an error that names the nearest one.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import SettingsError as PydanticSettingsError

from headrace.model.config import REMEMBERED, MetaLearning
from headrace.streams.actions import check_actions
from headrace.streams.errors import SettingsError
from headrace.streams.kafka import security

PREFIX = "HEADRACE_"
FILE_VARIABLE = "HEADRACE_SETTINGS"


class Settings(BaseSettings):
    """Everything the roles and tools take from outside."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    # -------------------------------------------------------------------------------- Kafka
    bootstrap: str = Field("127.0.0.1:9092", description="Brokers, host:port, comma-separated.")
    topic_prefix: str = Field(
        "headrace",
        pattern=r"^[A-Za-z0-9._-]{1,233}$",  # what Kafka takes, less .recommendations
        description="Topics are named PREFIX.events and so on; another shop on the same brokers"
        " needs a group and a model_store of its own, too.",
    )
    partitions: int = Field(
        4, ge=1, le=10_000, description="Partitions of the topics by user; never to change."
    )
    replication: int = Field(
        1,
        ge=1,
        le=10,
        description="Copies of each topic; 3 in production, where two then acknowledge what is"
        " written (min.insync.replicas).",
    )
    group: str = Field(
        "headrace",
        pattern=r"^[A-Za-z0-9._-]{1,227}$",  # as a topic, less -adapt-users-changelog
        description="Consumer groups are named GROUP-adapt, GROUP-learn.",
    )
    group_instance_id: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._-]{0,249}$",  # what Kafka takes
        description="Static membership: this worker's name in its group, no other's, and the same"
        " after a restart. Back within session_timeout_s, it goes on with its partitions; stopped,"
        " it holds them as long. Not with the embedded broker.",
    )
    session_timeout_s: float = Field(
        10.0, ge=6, le=300, description="Silence after which a worker's partitions move on."
    )
    rebalance_limit_s: float = Field(
        60.0,
        ge=12,
        validate_default=True,
        description="A worker whose rebalance or recovery lasts longer ends itself.",
    )
    pause_limit_s: float = Field(
        2.0, ge=1, description="A worker that was stopped for longer ends itself: it may be stale."
    )
    compression: Literal["none", "gzip", "lz4", "zstd"] = Field(
        "none", description="Compression of what the roles write."
    )

    # ------------------------------------------------------------------------- security of Kafka
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="Connection to the brokers: SSL is TLS, SASL is user and password."
    )
    ssl_ca_file: str = Field(
        "", description="PEM file of who signed the brokers' certificates; the system's if empty."
    )
    ssl_certificate_file: str = Field(
        "", description="PEM file of this client's certificate, where brokers ask for one."
    )
    ssl_key_file: str = Field(
        "", description="PEM file of its key, not encrypted; empty if it is in the same file."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="SASL mechanism; PLAIN sends the password itself."
    )
    sasl_username: str = Field("", description="User, for SASL.")
    sasl_password: SecretStr = Field(
        SecretStr(""), description="Password, for SASL; not taken from the command line."
    )
    sasl_password_file: str = Field("", description="Or a file that holds the password.")

    # ---------------------------------------------------------------------------- micro-batches
    micro_batch_events: int = Field(
        256, ge=1, le=65_536, description="Events that complete a micro-batch."
    )
    micro_batch_wait_s: float = Field(
        0.01,
        ge=0,
        le=60,
        description="Longest that fetched events wait for company while nothing is computed.",
    )

    # ---------------------------------------------------------------------------------- state
    history_length: int = Field(
        200,
        ge=2,
        le=10_000,
        description="Recent interactions kept of each user; the model sees the latest 1,000.",
    )
    max_users: int = Field(
        1_000_000,
        ge=1,
        description="Users a worker holds, also those of a worker that is away for over ten"
        " minutes; the least recent go first.",
    )
    max_items: int = Field(
        200_000,
        ge=16,
        description="Items in the vocabulary; the least used go first. May grow, and not shrink"
        " below what the model holds.",
    )
    neighbours: int = Field(256, ge=8, le=1024, description="Neighbours counted for each item.")
    data_dir: Path = Field(
        Path("headrace-data"), description="Folder for what a role keeps on local disk."
    )
    model_store: str = Field(
        "",
        description="Folder or fsspec URL of the checkpoints, for this shop alone (s3:// needs the"
        " package s3fs, gs:// gcsfs); DATA_DIR/models if empty.",
    )
    start_from: str = Field(
        "",
        description="Model file of another shop to start from while there is no version here; new"
        " items always do.",
    )
    versions_kept: int = Field(5, ge=2, description="Checkpoints and weights kept in the store.")

    # ---------------------------------------------------------------------------------- lists
    list_length: int = Field(
        20, ge=1, le=200, description="Items in a list; above 100 some are shorter."
    )
    diversity: float = Field(
        0.0, ge=0, le=1, description="Weight of being unlike the items above it, from 0 to 1."
    )
    leave_out: dict[str, Annotated[int, Field(ge=-1)]] = Field(
        default_factory=dict,
        description="For an action, how many of the user's latest items with that action stay out"
        " of the list (-1 for all that are remembered). The very last item always does.",
    )

    target_action: str = Field(
        "",
        description="Rank by how likely the user does this next; any action if empty.",
    )

    # ---------------------------------------------------------------------------------- model
    encoder_width: int = Field(32, ge=4, le=4096, description="Width D of the encoder.")
    encoder_blocks: int = Field(1, ge=1, le=64, description="Blocks of the encoder.")
    encoder_heads: int = Field(2, ge=1, le=64, description="Attention heads of a block.")
    encoder_length: int = Field(
        32, ge=2, le=REMEMBERED, description="Interactions T the encoder sees."
    )
    inner_steps: int = Field(2, ge=0, le=16, description="Steps of the inner loop.")
    meta_learning: MetaLearning = Field(
        "fomaml",
        description="How the inner loop is learned: fomaml, maml, meta_sgd, anil or reptile.",
    )
    clusters: int = Field(
        1, ge=1, le=64, description="Kinds of users, each with initial fast weights of its own."
    )
    content: Literal["auto", "off"] = Field(
        "auto", description="Rank new items by their catalogue record's vectors or text; or not."
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    threads: int = Field(
        1,
        ge=1,
        le=256,
        description="CPU threads that compute: adapt shares the users of a micro-batch among them.",
    )
    shown_lists: int = Field(
        8_192,
        ge=0,
        le=10_000_000,
        description="Users whose list adapt keeps to judge their next event by (20 kB each).",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of everything random.")

    # ---------------------------------------------------------------------------------- learn
    delta_interval_s: float = Field(
        1.0, gt=0, le=60, description="Item signals and the scoring network travel this often."
    )
    version_events: int = Field(
        10_000, ge=1, description="A model version is published after this many events ..."
    )
    version_interval_s: float = Field(
        30.0,
        gt=0,
        le=3_600,  # who starts needs the deltas since a version, which are kept for six hours
        description="... or after this long, if there was anything to read."
        " Checkpoints are written with versions, in a twentieth of the time at most.",
    )
    replay_tasks: int = Field(
        8_192, ge=256, le=1_000_000, description="Tasks kept for rehearsal (24 kB each)."
    )
    replay_batches: int = Field(
        2, ge=0, le=64, description="Rehearsed meta-batches for each new one."
    )
    action_weights: dict[str, Annotated[float, Field(ge=0, le=1000)]] = Field(
        default_factory=dict,
        description="For an action, how much its events count; 1 if not given.",
    )
    learn_users: int = Field(100_000, ge=1, description="Users whose history the learn role keeps.")
    behind_share: float = Field(
        0.25,
        ge=0,
        le=1,
        description="While learn cannot keep up, the share of users whose events are learned from,"
        " without rehearsal; all events are still counted.",
    )
    learn_processes: int = Field(
        1, ge=1, le=64, description="Processes that share the learn role's gradients."
    )

    # ---------------------------------------------------------------------------------- operating
    http_host: str = Field(
        "127.0.0.1",
        description="Address of /metrics and /health; one beyond this machine needs a token.",
    )
    http_token: SecretStr = Field(
        SecretStr(""),
        description="Requests to http_host must carry it (Authorization: Bearer ...); not taken"
        " from the command line.",
    )
    http_token_file: str = Field("", description="Or a file that holds the token.")
    adapt_port: int = Field(8601, ge=0, le=65_535, description="Port of the adapt role's metrics.")
    learn_port: int = Field(8602, ge=0, le=65_535, description="Port of the learn role's metrics.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level that is logged."
    )

    @field_validator("target_action", "action_weights")
    @classmethod
    def _names_actions(cls, value: str | dict[str, float]) -> str | dict[str, float]:
        check_actions(value if isinstance(value, dict) else filter(None, [value]))
        return value

    @field_validator("rebalance_limit_s")
    @classmethod
    def _outlasts_a_dead_member(cls, limit_s: float, info: ValidationInfo) -> float:
        # A rebalance waits a session for a member that died, and the next one may follow at once.
        session_s = info.data.get("session_timeout_s", 0.0)  # it is missing if it was refused
        if limit_s < 2 * session_s:
            raise ValueError(
                "a worker would end itself while a dead one is waited for:"
                f" set rebalance_limit_s to {2 * session_s:g} or more,"
                f" or session_timeout_s={session_s:g} to {limit_s / 2:g} or less"
            )
        return limit_s

    @model_validator(mode="after")
    def _goes_together(self) -> "Settings":
        security.check(self)
        if self.encoder_width % self.encoder_heads:
            raise ValueError(
                f"encoder_width={self.encoder_width} is not a multiple of"
                f" encoder_heads={self.encoder_heads}: set one that is"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the hook's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the hook's signature
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the hook's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the hook's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # ``load`` reads the environment: several sources here would merge a map, not replace it.
        return (init_settings,)

    def topic(self, plural_noun: str) -> str:
        """Return the full name of a topic, for instance of ``events``."""
        return f"{self.topic_prefix}.{plural_noun}"

    @property
    def store_url(self) -> str:
        """Where checkpoints live."""
        return self.model_store or str(self.data_dir / "models")


def load(flags: Mapping[str, Any] | None = None, *, file: str | None = None) -> Settings:
    """Read the settings once, from file, environment and ``flags`` (``None`` values are unset).

    Raises:
        SettingsError: a name is unknown or a value is out of range; the text names the fix.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    from_environment = [
        name.removeprefix(PREFIX).lower()
        for name in map(str.upper, os.environ)
        if name.startswith(PREFIX) and name != FILE_VARIABLE
    ]
    from_file = _read_file(file or os.environ.get(FILE_VARIABLE))
    for name in [*given, *from_file]:
        _check_name(name)
    for name in from_environment:
        _check_name(name, shown=f"{PREFIX}{name.upper()}")
    return _checked(from_file | _read_environment() | given)


def changed(settings: Settings, **changes: Any) -> Settings:
    """Return the settings with some of them changed.

    Raises:
        SettingsError: a value is out of range; the text names the fix.
    """
    return _checked(dict(settings) | changes)


def _checked(given: Mapping[str, Any]) -> Settings:
    try:
        return Settings(**given)
    except ValidationError as exc:
        raise SettingsError(_explain(exc)) from None


def _read_environment() -> dict[str, Any]:
    try:
        return EnvSettingsSource(Settings)()
    except (PydanticSettingsError, RecursionError) as exc:  # a map is JSON, and this is none
        named = re.search(r'field "(\w+)"', str(exc))
        where = f"{PREFIX}{named[1].upper()}" if named else "a setting in the environment"
        raise SettingsError(f'{where} is no JSON map, such as {{"purchase": 5}}') from exc


def _read_file(path: str | None) -> dict[str, Any]:
    if not path:
        return {}
    try:
        read = tomllib.loads(Path(path).read_text())
    except OSError as exc:
        raise SettingsError(f"settings file {path} cannot be read: {exc.strerror}") from None
    except (ValueError, RecursionError) as exc:  # not TOML, not even text, or nested without end
        raise SettingsError(f"settings file {path} is not TOML: {exc}") from None
    for name, value in read.items():
        if isinstance(value, dict) and not difflib.get_close_matches(name, Settings.model_fields):
            raise SettingsError(
                f"settings file {path} has a table [{name}]: settings stand at the top of the file,"
                " not in a table"
            )
    return read


def _check_name(name: str, *, shown: str = "") -> None:
    if name in Settings.model_fields:
        return
    nearest = difflib.get_close_matches(name, Settings.model_fields, n=1, cutoff=0.5)
    meant = f"did you mean {nearest[0]!r}?" if nearest else "the README lists all"
    raise SettingsError(f"unknown setting {shown or name!r}; {meant}")


def _explain(exc: ValidationError) -> str:
    parts = []
    for error in exc.errors():
        if not error["loc"]:  # of settings that do not go together
            parts.append(error["msg"].removeprefix("Value error, "))
            continue
        name = str(error["loc"][0])
        about = Settings.model_fields[name].description if name in Settings.model_fields else ""
        given = name if name in security.SECRETS else f"{name}={error.get('input')!r}"
        parts.append(f"{given}: {error['msg']}. {about}")
    return "; ".join(parts)
