"""Offers the public names that say what a prompt is worth: metrics, racing, pairing, diversity, rewards, embedders.

Each name is imported when it is first used.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from fittest.fitness.diversity import NeighbourDiversity, rarefied_vendi, vendi_score
    from fittest.fitness.embedders.hashing import HashEmbedder
    from fittest.fitness.embedders.minilm import MiniLM
    from fittest.fitness.evaluator import RipEvaluator
    from fittest.fitness.metrics import RipMetrics, rip_metrics
    from fittest.fitness.pairing import Pairing, parse_pairing
    from fittest.fitness.racing import Race, RaceTrack
    from fittest.fitness.rewards.callable import FunctionReward
    from fittest.fitness.rewards.classifier import ClassifierReward
    from fittest.fitness.rewards.head import PreferenceHead
    from fittest.fitness.rewards.http import HttpReward
    from fittest.fitness.rewards.judge import JudgeReward
    from fittest.fitness.rewards.null import NullReward
    from fittest.fitness.rewards.pairwise import PairwiseReward
    from fittest.fitness.rewards.recorded import RecordedReward
    from fittest.fitness.rewards.served import ServedReward

__all__ = [
    "ClassifierReward",
    "FunctionReward",
    "HashEmbedder",
    "HttpReward",
    "JudgeReward",
    "MiniLM",
    "NeighbourDiversity",
    "NullReward",
    "Pairing",
    "PairwiseReward",
    "PreferenceHead",
    "Race",
    "RaceTrack",
    "RecordedReward",
    "RipEvaluator",
    "RipMetrics",
    "ServedReward",
    "parse_pairing",
    "rarefied_vendi",
    "rip_metrics",
    "vendi_score",
]

# lazily, since a reward that is not used must not cost the import of its libraries
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "diversity": ["NeighbourDiversity", "rarefied_vendi", "vendi_score"],
        "embedders.hashing": ["HashEmbedder"],
        "embedders.minilm": ["MiniLM"],
        "evaluator": ["RipEvaluator"],
        "metrics": ["RipMetrics", "rip_metrics"],
        "pairing": ["Pairing", "parse_pairing"],
        "racing": ["Race", "RaceTrack"],
        "rewards.callable": ["FunctionReward"],
        "rewards.classifier": ["ClassifierReward"],
        "rewards.head": ["PreferenceHead"],
        "rewards.http": ["HttpReward"],
        "rewards.judge": ["JudgeReward"],
        "rewards.null": ["NullReward"],
        "rewards.pairwise": ["PairwiseReward"],
        "rewards.recorded": ["RecordedReward"],
        "rewards.served": ["ServedReward"],
    },
)
