"""One life of an adapt worker: the real Faust app and the real delivery on a simulated loop."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka.errors import InvalidTimestampError, KafkaError
from faust.types.tuples import TP
from simulated_client import Consumer
from simulated_loop import SimulatedLoop
from simulated_transport import SimulatedTransport

from headrace.streams.adapt.engine import UserResult, UserWork
from headrace.streams.adapt.role import make_role
from headrace.streams.guards import EXIT_FAILED
from headrace.streams.process import Readiness, _stop, _tick_forever
from headrace.streams.records import Recommendation, rec_id_of
from headrace.streams.state import StateKey, UserState

HISTORY_LENGTH = 100
WIRE = frozenset({"produce", "commit"})  # a killed process has sent these; they may still arrive
OWN = frozenset({"compute", "computed", "hop"})  # these need no broker
TOLD_FRAMES = -3  # the innermost: many workers end as they should, and all would take long


class EndedError(SystemExit):
    """The process ended itself, with a code of guards.py."""


class Folding:
    """An engine whose list is the user's history: it tells what it was made from."""

    def process(self, work: Sequence[UserWork]) -> list[UserResult]:
        """Fold the new events in; list what the state holds then."""
        return [self._process(user) for user in work]

    def _process(self, work: UserWork) -> UserResult:
        for offset, event in work.events:
            work.state.apply(event, offset=offset, history_length=HISTORY_LENGTH)
        answer = Recommendation(
            user=work.user,
            rec_id=rec_id_of(work.user, work.source),
            items=tuple(work.state.items),
            scores=(),
            reasons=(),
            model_version=1,
            source=work.source,
            generated_ms=0,
        )
        return UserResult(work.state, answer)


@dataclass(eq=False)
class Operation:
    """Something a worker waits for: a broker's answer, or its own compute thread."""

    worker: "Worker"
    kind: str
    effect: Callable[[], Any]
    future: Any
    is_possible: Callable[[], bool] = lambda: True
    lane: Any = None  # operations of one lane keep their order
    is_stalled: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.lane or ''}"

    def happen(self) -> None:
        """Let it happen; whoever waits for it has the answer."""
        try:
            result = self.effect()
        except KafkaError as exc:
            self.worker.n_refused += isinstance(exc, InvalidTimestampError)
            if not self.future.done():
                self.future.set_exception(exc)
                self.future.exception()  # it need not be asked for
        else:
            if not self.future.done():
                self.future.set_result(result)


class Worker:
    """A process: its loop, what it waits for, and how it ended."""

    def __init__(self, world: Any, name: str) -> None:
        self.world = world
        self.name = name
        self.operations: list[Operation] = []
        self.exit_code: int | None = None
        self.failure = ""
        self.n_refused = 0
        self.may_end = False
        self._stalls_next: set[str] = set()
        self.is_midway = False  # it has callbacks left that are ready
        self.is_killed = self.is_paused = self.is_cut = False
        self.assigned: tuple[int, ...] = ()
        self.app: Any = None
        self.heard: Any = None
        self._joining: Any = None
        self.loop = SimulatedLoop(world.now_s, compute=self.compute, failed=self._failed)
        self.kafka = Consumer(self, world.broker, world.group)
        self.now_s = world.now_s
        self.loop.create_task(self._live()).add_done_callback(self._worked)

    # ----------------------------------------------------------------------------- its life

    @property
    def is_alive(self) -> bool:
        """Return whether the process is there, running or not."""
        return self.exit_code is None and not self.is_killed

    async def _live(self) -> None:
        """Run the role as process.py does, less signals and what is about the process."""
        role = make_role(
            self.world.settings,
            Folding(),
            Readiness(),
            clock=self.now_s,
            wall_clock=self.now_s,
            end=self.end,
        )
        self.app = role.app
        transport = SimulatedTransport(
            role.app.conf.broker_consumer, role.app, role.app.transport.options
        )
        transport.worker = self
        role.app.transport = role.app.producer_transport = transport
        self._delivery = role.drain.__self__
        self._role = role
        role.app.stop = self._leave
        for work in (*role.work, _tick_forever(role), self._start(role.app)):
            self.loop.create_task(work).add_done_callback(self._worked)

    async def _start(self, app: Any) -> None:
        """Start Faust's services in Faust's order, less those that talk to the broker."""
        app.finalize()
        app.assignor.assigned_standbys = set
        app.assignor.assigned_actives = lambda: {TP(self.world.changelog, p) for p in self.assigned}
        await app.producer.start()
        await app.agents.start()
        await app.topics.start()
        await app.tables.start()

    def stop(self) -> None:
        """Stop as process.py does when it is told to."""
        if self.app is not None:
            self.loop.create_task(self._stop()).add_done_callback(self._worked)

    async def _stop(self) -> None:
        """Be gone when the role has stopped, whether the group has heard of it or not."""
        await _stop(self._role)
        self.end(0)

    async def _leave(self) -> None:
        await self.request("leave", lambda: self.world.group.leave(self, self.now_s()))

    def _worked(self, task: Any) -> None:
        if not task.cancelled() and task.exception() is not None:
            told = traceback.format_exception(task.exception(), limit=TOLD_FRAMES)
            self.failure = "".join(told)
            self.end(EXIT_FAILED)

    def _failed(self, context: dict[str, Any]) -> None:
        """End the process if a callback fails; a task that does is its owner's affair."""
        if "handle" in context and self.is_alive:
            self.failure = f"{context['message']}: {context.get('exception')!r}"
            self.end(EXIT_FAILED)

    def end(self, code: int) -> None:
        """End the process, as end_process does."""
        raise EndedError(code)

    def run(self, at_most: int | None = None) -> None:
        """Let the process do what it can without an answer, or so many callbacks of it."""
        if not self.is_alive or self.is_paused:
            return
        try:
            self.loop.run_ready(at_most)
        except EndedError as ended:
            self.exit_code = ended.code
            self._drop()

    def kill(self) -> None:
        """Kill the process between two of its callbacks."""
        self.is_killed = True
        self._drop()

    def _drop(self) -> None:
        self.world.orphans += [op for op in self.operations if op.kind in WIRE]
        self.operations.clear()
        self.loop.kill()

    # ------------------------------------------------------------------ what it waits for

    def request(
        self,
        kind: str,
        effect: Callable[[], Any],
        *,
        is_possible: Callable[[], bool] = lambda: True,
        otherwise: tuple[float, Any] | None = None,
        lane: Any = None,
    ) -> Any:
        """Return what becomes the result of ``effect``, or after a while is ``otherwise``."""
        future = self.loop.create_future()
        operation = Operation(self, kind, effect, future, is_possible, lane)
        if kind in self._stalls_next:
            self._stalls_next.remove(kind)
            operation.is_stalled = True
        self.operations.append(operation)
        if otherwise:
            after_s, value = otherwise

            def expire() -> None:
                if operation in self.operations:
                    self.operations.remove(operation)
                    if not future.done():
                        future.set_result(value)

            self.loop.call_later(after_s, expire)
        return future

    def send(self, tp: TP, effect: Callable[[], Any]) -> Any:
        """Put records on their way to a partition, behind those before."""
        return self.request("produce", effect, lane=tp)

    def compute(self, function: Callable[[], Any]) -> Any:
        """Compute in the one thread: it takes its time, and so does the way back."""
        future = self.loop.create_future()

        def computed() -> None:
            result = function()
            back = self.request("computed", lambda: result, lane="computed")
            back.add_done_callback(lambda back: future.done() or future.set_result(back.result()))

        self.request("compute", computed, lane="compute")
        return future

    def possible(self) -> list[Operation]:
        """Return what may happen next, oldest first."""
        lanes, found = set(), []
        for op in self.operations:
            if op.lane is not None and op.lane in lanes:
                continue
            lanes.add(op.lane)
            is_reachable = not self.is_cut or op.kind in OWN
            is_running = not self.is_paused or op.kind in WIRE
            if is_reachable and is_running and not op.is_stalled and op.is_possible():
                found.append(op)
        return found

    def complete(self, operation: Operation) -> None:
        """Let it happen, and the process go on with the answer."""
        self.operations.remove(operation)
        operation.happen()

    # ----------------------------------------------------------------------------- the group

    def join(self) -> Any:
        """Ask to join; the answer comes when all members have."""
        self._joining = self.loop.create_future()
        self._ask_to_join()
        return self._joining

    def _ask_to_join(self) -> None:
        self.request("join", lambda: self.world.group.join(self, self.now_s()))

    def answer_join(self, generation: int, partitions: tuple[int, ...]) -> None:
        """Put the coordinator's answer on its way."""
        self._answer("join answer", self._joining, (generation, partitions))

    def hear(self, what: str) -> None:
        """Put what the next heartbeat says on its way."""
        self._answer("heartbeat", self.heard, what)

    def hear_of_expulsion(self, *, has_joined: bool) -> None:
        """Say that the group has gone on without this one."""
        if has_joined and self.is_alive:
            self._ask_to_join()  # its join is refused, and it tries again
        else:
            self.hear("expelled")

    def _answer(self, kind: str, waiting: Any, what: Any) -> None:
        if waiting is not None and self.is_alive:
            back = self.request(kind, lambda: what)
            back.add_done_callback(lambda back: waiting.done() or waiting.set_result(back.result()))

    def is_heard(self) -> bool:
        """Return whether the coordinator gets its heartbeats."""
        return self.is_alive and not self.is_paused and not self.is_cut

    def listed_end(self, tp: TP) -> int:
        """Return what ListOffsets says."""
        return self.world.broker.end(tp)

    # ------------------------------------------------------------------ what the world asks

    def commit(self) -> None:
        """Commit as Faust's timer would."""
        if self.is_alive and not self.is_paused and self.app is not None:
            self.loop.create_task(self.app.intake.commit()).add_done_callback(self._worked)
            self.run()

    def stall(self, kind: str) -> None:
        """Let the first of a kind that is waited for, or the next, take long."""
        for operation in self.operations:
            if operation.kind == kind:
                operation.is_stalled = True
                return
        self._stalls_next.add(kind)

    def release(self) -> None:
        """Let nothing take long any more."""
        self._stalls_next.clear()
        for operation in self.operations:
            operation.is_stalled = False

    def n_in_flight(self) -> int:
        """Return how many micro-batches are submitted and not finished."""
        return self._delivery._jobs._unfinished_tasks if self.app else 0

    def state(self, key: StateKey) -> UserState:
        """Return a user's state in the table."""
        encoded = self._delivery._states._table.get(key)
        return UserState() if encoded is None else UserState.decode(encoded)

    def is_serving(self) -> bool:
        """Return whether positions are assigned and tables recovered."""
        return self.app is not None and self.app.serving.is_set()

    def next_timer_s(self) -> float | None:
        """Return when this process has something to do by itself."""
        return None if self.is_paused or not self.is_alive else self.loop.next_timer()
