"""A real Prometheus scrapes the two real roles: what it is configured for is what they serve."""

from pathlib import Path

from prometheus_process import running, until
from prometheus_tools import PrometheusTools
from roles_harness import publish, roles, shoppers, small_deployment

from headrace.streams.kafka.broker import EmbeddedBroker
from headrace.streams.settings import Settings


def test_both_real_roles_are_scraped_and_ready(
    prometheus_tools: PrometheusTools, tmp_path: Path
) -> None:
    with EmbeddedBroker() as broker:
        settings = small_deployment(
            Settings(bootstrap=broker.bootstrap, data_dir=tmp_path / "data", session_timeout_s=6)
        )
        ports = {"adapt": settings.adapt_port, "learn": settings.learn_port}
        with (
            roles(settings, "learn", "adapt"),
            running(prometheus_tools, ports, tmp_path) as prometheus,
        ):
            publish(settings, shoppers(50))

            def events() -> dict[str, str]:
                return {
                    sample["metric"]["job"]: sample["value"][1]
                    for sample in prometheus.query("headrace_events_total * headrace_ready")
                }

            everything = {"adapt": "50", "learn": "50"}
            assert until(events, lambda seen: seen == everything) == everything
