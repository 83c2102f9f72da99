"""The demo: real purchases through a real broker and both roles, live on one screen."""

import signal
import tempfile
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.live import Live

from headrace.streams.errors import RoleFailedError, SettingsError
from headrace.streams.kafka.broker import EmbeddedBroker, free_port
from headrace.streams.kafka.topics import create_topics
from headrace.streams.records import Event, Item, Recommendation
from headrace.streams.settings import Settings
from headrace.streams.tools import consume
from headrace.streams.tools.demo_screen import MEANINGS, Moment, Shopper, render, summary
from headrace.streams.tools.files import events_of
from headrace.streams.tools.produce import publish_events, publish_items
from headrace.streams.tools.purchases import completejourney
from headrace.streams.tools.replay import at_rate, paced
from headrace.streams.tools.scrape import FOR_THIS_MACHINE, Scrape, scrape
from headrace.streams.up import Roles

READY_LIMIT_S = 300.0  # compiling the counting loops takes the first start up to a minute or two
DRAIN_LIMIT_S = 30.0
REFRESH_S = 0.5
RATE_WINDOW = 20  # refreshes that the rates and quantiles look back
SHOPPER_SHOWN_S = 4.0  # long enough to read a list
PURCHASES_SHOWN = 6
HOUSEHOLDS = 200


def run_demo(
    settings: Settings, *, broker_port: int, seconds: float, events_per_s: float, keep: bool
) -> None:
    """Run until the replay is over, or Ctrl-C; then take everything down, unless ``keep``."""
    console = Console()
    for number in (signal.SIGTERM, signal.SIGHUP):  # a kill, a terminal that is closed
        signal.signal(number, signal.default_int_handler)  # take everything down as well
    try:
        _run(console, settings, broker_port, seconds, events_per_s, keep)
    except KeyboardInterrupt:
        console.print("stopped")


def _run(
    console: Console,
    settings: Settings,
    broker_port: int,
    seconds: float,
    events_per_s: float,
    keep: bool,
) -> None:
    events, items = _data(int(seconds * events_per_s))
    with ExitStack() as stack:
        stack.callback(console.show_cursor)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-demo-"))
        broker = stack.enter_context(EmbeddedBroker(broker_port))
        settings = _settings_of(settings, broker, Path(folder))
        create_topics(settings)
        console.print(f"broker at {broker.bootstrap}; publishing {len(items):,} products")
        publish_items(settings, items)
        roles = stack.enter_context(Roles(settings, is_quiet=True))
        demo = Demo(settings, roles, {item.item: item.title for item in items})
        try:
            console.print("starting both roles; the first start compiles the counting loops")
            demo.wait_until_ready()
            demo.show(console, events_of(events), events_per_s)
        finally:
            demo.stop()
            console.print(summary(demo.moment()))
        if keep:
            _keep(console, settings, roles)


def _data(n_events: int) -> tuple[pl.DataFrame, list[Item]]:
    """Return the first purchases of the year's first households, and the products among them.

    Few households, so that two minutes hold weeks of each: a shop has its regulars.
    """
    events, items = completejourney()
    households = events["user"].unique(maintain_order=True)[:HOUSEHOLDS]
    events = events.filter(pl.col("user").is_in(households.implode())).head(n_events)
    bought = set(events["item"])
    return events, [item for item in items if item.item in bought]


def _settings_of(settings: Settings, broker: EmbeddedBroker, folder: Path) -> Settings:
    return broker.settings(settings).model_copy(
        update=FOR_THIS_MACHINE
        | {
            "data_dir": folder,
            "model_store": "",
            "session_timeout_s": 6.0,
            "adapt_port": _port(settings.adapt_port),
            "learn_port": _port(settings.learn_port),
        }
    )


def _port(wanted: int) -> int:
    """Return the wanted port, or any free one: the demo runs beside whatever is there."""
    try:
        return free_port(wanted)
    except SettingsError:
        return free_port()


def _keep(console: Console, settings: Settings, roles: Roles) -> None:
    """Leave everything running until Ctrl-C."""
    console.print(
        f"left running until Ctrl-C: headrace consume --follow --bootstrap {settings.bootstrap}"
    )
    while True:
        roles.tend()
        time.sleep(REFRESH_S)


class Demo:
    """Publishes, follows and shows."""

    def __init__(self, settings: Settings, roles: Roles, titles: dict[str, str]) -> None:
        self._settings = settings
        self._roles = roles
        self._titles = titles
        self._stopping = threading.Event()
        self._purchases: defaultdict[str, deque[str]] = defaultdict(
            lambda: deque(maxlen=PURCHASES_SHOWN)
        )
        self._n_published = 0
        self._latest: Recommendation | None = None
        self._shopper: Shopper | None = None
        self._shown_at_s = 0.0
        self._scrapes: deque[tuple[float, Scrape]] = deque(maxlen=RATE_WINDOW)
        self._first: Scrape = Scrape()
        self._replay: threading.Thread | None = None
        self._failure: BaseException | None = None

    def wait_until_ready(self) -> None:
        """Wait until both roles serve.

        Raises:
            RoleFailedError: they do not within the limit, or cannot run.
        """
        deadline_s = time.monotonic() + READY_LIMIT_S
        ports = (self._settings.learn_port, self._settings.adapt_port)
        while not all(scrape(port).get("ready") for port in ports):
            self._roles.tend()
            if time.monotonic() > deadline_s:
                raise RoleFailedError(f"not ready in time: {self._roles.log_tail('adapt')}")
            time.sleep(REFRESH_S)
        self._first = scrape(self._settings.adapt_port)

    def show(self, console: Console, events: Iterator[Event], events_per_s: float) -> None:
        """Replay the events and show what happens until every one is answered."""
        schedule = paced(at_rate(self._noted(events), events_per_s=events_per_s))
        replay = self._replay = self._start(lambda: publish_events(self._settings, schedule))
        self._start(self._follow)
        with Live(console=console, auto_refresh=False, screen=False) as live:
            while replay.is_alive():
                self._refresh(live)
            deadline_s = time.monotonic() + DRAIN_LIMIT_S
            while not self._is_drained() and time.monotonic() < deadline_s:
                self._refresh(live)
        if not console.is_terminal:
            console.print()  # else what is said next stands on the last line of the screen
        if self._failure is not None:
            raise self._failure

    def _refresh(self, live: Live) -> None:
        self._roles.tend()
        self._scrapes.append((time.monotonic(), scrape(self._settings.adapt_port)))
        live.update(render(self.moment()), refresh=True)
        time.sleep(REFRESH_S)

    def stop(self) -> None:
        """Let the replay end; the follower, which waits for lists, ends with the process."""
        self._stopping.set()
        if self._replay is not None:
            self._replay.join()

    def moment(self) -> Moment:
        """Return what to show now."""
        if not self._scrapes:
            self._scrapes.append((time.monotonic(), scrape(self._settings.adapt_port)))
        (then_s, then), (now_s, now) = self._scrapes[0], self._scrapes[-1]
        elapsed_s = max(now_s - then_s, REFRESH_S)
        return Moment(
            events=int(now.get("events_total")),
            events_per_s=(now.get("events_total") - then.get("events_total")) / elapsed_s,
            lists=int(now.get("lists_total")),
            p50_s=now.quantile("event_to_list_seconds", 0.50, since=self._first),
            p99_s=now.quantile("event_to_list_seconds", 0.99, since=self._first),
            model_version=int(now.get("model_version")),
            users=int(now.get("users")),
            items=int(now.get("items")),
            ndcg={name: now.get("prequential_ndcg", name) for name in MEANINGS},
            hit={name: now.get("prequential_hit_ratio", name) for name in MEANINGS},
            shopper=self._pick_shopper(),
            titles=self._titles,
        )

    def _pick_shopper(self) -> Shopper | None:
        """Return the shopper on the screen; another after a while."""
        latest = self._latest
        if latest and latest.items and time.monotonic() - self._shown_at_s > SHOPPER_SHOWN_S:
            self._shopper = Shopper(latest, tuple(self._purchases[latest.user]))
            self._shown_at_s = time.monotonic()
        return self._shopper

    def _is_drained(self) -> bool:
        now = scrape(self._settings.adapt_port)
        return now.get("events_total") >= self._n_published

    def _noted(self, events: Iterator[Event]) -> Iterator[Event]:
        for event in events:
            if self._stopping.is_set():
                return
            self._purchases[event.user].append(event.item)
            self._n_published += 1
            yield event

    def _follow(self) -> None:
        for found in consume.follow_lists(self._settings):
            if self._stopping.is_set():
                return
            self._latest = found

    def _start(self, work: Callable[[], object]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except Exception as exc:
                self._failure = exc

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread
