"""What the unit tests share: one thread for torch."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Compute on one thread: on tensors this small, a second one on a busy core costs 30 times."""
    torch.set_num_threads(1)
