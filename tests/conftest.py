"""What all tests share: the choice of the broker, and how properties are tried."""

import warnings

import hypothesis
import pytest

# kafka-python reads its schemas with functions that Python 3.11 deprecates (3.13 took that back).
# It does so once, while it is imported, so here is the only place that has to look away.
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "(open|read)_text is deprecated", DeprecationWarning)
    import kafka  # noqa: F401 - imported for its warnings

# No deadline: how long an example takes on a busy machine says nothing about the code.
hypothesis.settings.register_profile("headrace", deadline=None, max_examples=50, print_blob=True)
hypothesis.settings.load_profile("headrace")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--broker``."""
    parser.addoption(
        "--broker",
        choices=["embedded", "kafka"],
        default="embedded",
        help="broker for tests/broker: the embedded one, or Apache Kafka (needs Java and Maven)",
    )
