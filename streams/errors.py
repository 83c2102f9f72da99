"""Every error that reaches an operator as one line, as one tree.

StreamsError
├── SettingsError            a setting is wrong or unknown           stop, fix the setting
├── BrokerUnreachableError   no broker answers at the address        try again
├── BrokerRefusedError       it or we are not trusted, or no rights  stop, fix what the text names
├── TopicMismatchError       a topic exists and does not fit         stop, fix what the text names
├── MalformedRecordError     the record can never be applied         dead letter
├── InputFileError           a file lacks a column or has bad rows   stop, fix the file
├── RoleFailedError          a role cannot run                       stop, fix what its log says
├── StoreError               the model store cannot be used          make room, or give rights
└── CheckpointError          a checkpoint is damaged or does not fit keep the old version
    └── UnreadableError      the store does not give it              try again
"""

from typing import Literal

Malformation = Literal[  # labels a counter
    "undecodable",
    "wrong_type",
    "too_large",
    "missing_field",
    "unknown_schema",
    "empty",
    "out_of_range",
]
LONGEST_DETAIL = 500  # characters; what a record holds may be far longer


class StreamsError(Exception):
    """Base of the tree."""


class SettingsError(StreamsError):
    """A setting is unknown or out of range. Operator action: fix the named setting."""


class BrokerUnreachableError(StreamsError):
    """No broker answers. Operator action: start one at the named address."""


class BrokerRefusedError(StreamsError):
    """One side does not trust the other, or a right is missing. Operator action: as it says."""


class TopicMismatchError(StreamsError):
    """An existing topic does not fit. Operator action: as it says; recreate none that is in use."""


class MalformedRecordError(StreamsError):
    """The record can never be applied. Operator action: read it on the dead-letter topic.

    ``detail`` does not repeat the ``reason``.
    """

    def __init__(self, reason: Malformation, detail: str) -> None:
        self.reason = reason
        self.detail = detail[:LONGEST_DETAIL]
        super().__init__(f"{reason}: {self.detail}")


class InputFileError(StreamsError):
    """A file cannot be read as events or items. Operator action: fix the named columns."""


class CheckpointError(StreamsError):
    """A checkpoint fails its checksum or does not fit. The version being served stays."""


class UnreadableError(CheckpointError):
    """The store does not give a file, maybe for a while only. Operator action: as it says."""


class StoreError(StreamsError):
    """The model store cannot be used. Operator action: make room there, or give rights."""


class RoleFailedError(StreamsError):
    """A role ended, or never became ready, and starting it again cannot help."""
