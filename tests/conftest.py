"""What all tests share: the choice of the broker, and one library's warning at import."""

import warnings

import pytest

# kafka-python reads its schemas with functions that Python 3.11 deprecates (3.13 took that back).
# It does so once, while it is imported, so here is the only place that has to look away.
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "(open|read)_text is deprecated", DeprecationWarning)
    import kafka  # noqa: F401 - imported for its warnings


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--broker``."""
    parser.addoption(
        "--broker",
        choices=["embedded", "kafka"],
        default="embedded",
        help="broker for tests/broker: the embedded one, or Apache Kafka (needs Java and Maven)",
    )
