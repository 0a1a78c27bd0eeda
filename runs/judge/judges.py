"""Makes the judges that do not sample an engine: verdict probabilities, and rewards by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fittest.evo.errors import FittestError
from fittest.runs.config.engine import TransformersSection
from fittest.runs.models import local_path

if TYPE_CHECKING:
    from fittest.evo.backends.transformers import Transformers
    from fittest.evo.protocols import Reward
    from fittest.fitness.judge.likelihood import VerdictModel
    from fittest.runs.config.engine import EngineSection


def verdict_model(engine: EngineSection) -> VerdictModel:
    """Returns the verdict probabilities of an engine.

    Args:
        engine: the engine's section of the configuration.

    Raises:
        FittestError: engines of this kind give no probabilities.
    """
    from fittest.fitness.judge.likelihood import TransformersVerdicts

    return TransformersVerdicts(transformers_engine(engine))


def transformers_engine(engine: EngineSection) -> Transformers:
    """Returns an engine of the one kind that gives probabilities and can be trained.

    Args:
        engine: the engine's section of the configuration.

    Raises:
        FittestError: the engine is of another kind.
    """
    from fittest.runs.parts.engines import transformers

    return transformers(transformers_section(engine))


def transformers_section(engine: EngineSection) -> TransformersSection:
    """Returns the section of an engine, if its kind gives probabilities and can be trained.

    Args:
        engine: the engine's section of the configuration.

    Raises:
        FittestError: the engine is of another kind.
    """
    if not isinstance(engine, TransformersSection):
        raise FittestError(
            f'probabilities and training need engine.kind = "transformers"; found "{engine.kind}" (engine.model may be'
            " a GGUF file)"
        )
    return engine


def reward_named(name: str) -> Reward:
    """Returns a reward by its name.

    Args:
        name: `head` for the embedded head, or the Hugging Face name or folder of a sequence classifier.

    Raises:
        FittestError: the embedded model that the head needs is not fetched.
    """
    if name == "head":
        from fittest.fitness.embedders.minilm import MiniLM
        from fittest.fitness.rewards.head import PreferenceHead

        return PreferenceHead(embedder=MiniLM(folder=local_path("minilm"), device="auto"))
    from fittest.fitness.rewards.classifier import ClassifierReward

    return ClassifierReward(model=name)
