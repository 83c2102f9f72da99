"""Record batches, their receipts, and the watermark that says how far a partition is done."""

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import faust
from faust.types.tuples import TP, ConsumerMessage

HEADER_OVERHEAD_BYTES = 128  # what an empty header takes in memory


@dataclass(slots=True, eq=False)
class Receipt:
    """Stands for one delivered batch until it is acknowledged."""

    tp: TP
    next_offset: int  # what to commit once this and all before it are acknowledged
    epoch: int
    sequence: int  # counts the batches of this partition in this epoch, from 0
    acknowledged: bool = False


@dataclass(slots=True)
class RecordBatch:
    """Records of one partition in offset order."""

    records: Sequence[Any]  # aiokafka.ConsumerRecord
    receipt: Receipt
    n_bytes: int = field(init=False)  # of keys, values and headers, each of which is some objects

    def __post_init__(self) -> None:
        """Count once what is asked for as long as the batch waits."""
        n_bytes = 0
        for record in self.records:
            n_bytes += len(record.key or b"") + len(record.value or b"")
            for name, value in record.headers:
                n_bytes += HEADER_OVERHEAD_BYTES + len(name) + len(value or b"")
        self.n_bytes = n_bytes

    @property
    def tp(self) -> TP:
        """The topic and partition all records are from."""
        return self.receipt.tp


class BatchMessage(ConsumerMessage):
    """One Faust message that carries a whole batch."""

    __slots__ = ("batch",)

    def __init__(self, batch: RecordBatch, generation: int) -> None:
        last = batch.records[-1]
        super().__init__(
            *(last.topic, last.partition, last.offset, (last.timestamp or 0) / 1000.0),
            *(last.timestamp_type, None, b"", b"", None, 0, 0, batch.tp),
            generation_id=generation,
        )
        self.batch = batch


class ChangelogMessage(BatchMessage):
    """A batch of a changelog, on its way into the table."""


class BatchSchema(faust.Schema):
    """Hands the batch through undecoded: one bad record must not stop the rest."""

    def loads_key(self, app: Any, message: Any, **_: Any) -> None:
        """Return no key: each record has its own."""

    def loads_value(self, app: Any, message: BatchMessage, **_: Any) -> RecordBatch:  # noqa: ARG002
        """Return the batch itself."""
        return message.batch


class Watermarks:
    """The commit offset of each partition: the end of its unbroken run of acknowledged batches."""

    def __init__(self) -> None:
        self._receipts: defaultdict[TP, deque[Receipt]] = defaultdict(deque)
        self._sequences: defaultdict[TP, int] = defaultdict(int)

    def deliver(self, tp: TP, next_offset: int, epoch: int) -> Receipt:
        """Note a batch as delivered and return its receipt."""
        receipt = Receipt(tp, next_offset, epoch, self._sequences[tp])
        self._sequences[tp] += 1
        self._receipts[tp].append(receipt)
        return receipt

    def partitions(self) -> list[TP]:
        """Return the partitions that have something new to commit."""
        return [tp for tp, run in self._receipts.items() if run and run[0].acknowledged]

    def is_waiting(self, tp: TP) -> bool:
        """Return whether a batch that was delivered is not committed yet."""
        return bool(self._receipts[tp])

    def take(self, tp: TP) -> int | None:
        """Return the offset to commit, or ``None`` if no batch finished since the last call."""
        receipts, offset = self._receipts[tp], None
        while receipts and receipts[0].acknowledged:
            offset = receipts.popleft().next_offset
        return offset

    def forget(self) -> None:
        """Start over: everything not yet committed will be delivered again."""
        self._receipts.clear()
        self._sequences.clear()


class LostBatchError(RuntimeError):
    """A batch did not reach the role. Operator action: none, the restart replays it."""


class GapCheck:
    """Notices a batch that went missing on its way from the intake to the role."""

    def __init__(self) -> None:
        self._epoch = -1
        self._expected: defaultdict[TP, int] = defaultdict(int)

    def check(self, receipt: Receipt) -> None:
        """Refuse to go on behind a batch that is missing: its commit would never come.

        Raises:
            LostBatchError: this is not the next batch of its partition in its epoch.
        """
        if receipt.epoch != self._epoch:
            self._epoch = receipt.epoch
            self._expected.clear()
        expected = self._expected[receipt.tp]
        if receipt.sequence != expected:
            raise LostBatchError(f"{receipt.tp}: batch {receipt.sequence} came, not {expected}")
        self._expected[receipt.tp] += 1
