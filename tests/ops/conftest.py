"""A real Prometheus, once for the session. A test that needs it fails without it."""

import pytest
from prometheus_tools import PrometheusTools, find_or_download


@pytest.fixture(scope="session")
def prometheus_tools() -> PrometheusTools:
    """Return the programs."""
    try:
        return find_or_download()
    except RuntimeError as exc:
        pytest.fail(str(exc))
