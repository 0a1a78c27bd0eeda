"""What tests of rewards share."""

from __future__ import annotations

from typing import Any

import pytest

from fittest.fitness.rewards.classifier import ClassifierReward


@pytest.fixture(scope="session")
def skywork(tmp_path_factory: pytest.TempPathFactory) -> tuple[ClassifierReward, Any]:
    """A reward model with one label, asked in batches, and its network."""
    from tests.tiny_classifier import save_model

    folder = tmp_path_factory.mktemp("skywork")
    network = save_model(folder)
    return ClassifierReward(model=str(folder), device="cpu", batch_tokens=2048), network
