"""Offers the public names that say where prompts come from and which stay: operators, gates, policies, rejection.

Each name is imported when it is first used.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from fittest.operators.few_shot import Blend, Cross, Mutate, Reason, SelfRip
    from fittest.operators.gates.contamination import Contamination
    from fittest.operators.gates.exact import Exact
    from fittest.operators.gates.keywords import Keywords
    from fittest.operators.gates.language import Language
    from fittest.operators.gates.length import Length
    from fittest.operators.gates.novelty import Novelty
    from fittest.operators.gates.readable import Readable
    from fittest.operators.gates.rouge_l import RougeL
    from fittest.operators.parsing import Unusable, parse_candidate
    from fittest.operators.policies import Absolute, Annealed, CutRule, FrozenQuantile, Pareto, PerGeneration
    from fittest.operators.rejection import failed_metrics, outranked
    from fittest.operators.repair import Repair
    from fittest.operators.trimming import select_by_rank_and_diversity

__all__ = [
    "Absolute",
    "Annealed",
    "Blend",
    "Contamination",
    "Cross",
    "CutRule",
    "Exact",
    "FrozenQuantile",
    "Keywords",
    "Language",
    "Length",
    "Mutate",
    "Novelty",
    "Pareto",
    "PerGeneration",
    "Readable",
    "Reason",
    "Repair",
    "RougeL",
    "SelfRip",
    "Unusable",
    "failed_metrics",
    "outranked",
    "parse_candidate",
    "select_by_rank_and_diversity",
]

# lazily, since a part that is not used must not cost the import of its libraries
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "few_shot": ["Blend", "Cross", "Mutate", "Reason", "SelfRip"],
        "gates.contamination": ["Contamination"],
        "gates.exact": ["Exact"],
        "gates.keywords": ["Keywords"],
        "gates.language": ["Language"],
        "gates.length": ["Length"],
        "gates.novelty": ["Novelty"],
        "gates.readable": ["Readable"],
        "gates.rouge_l": ["RougeL"],
        "parsing": ["Unusable", "parse_candidate"],
        "policies": ["Absolute", "Annealed", "CutRule", "FrozenQuantile", "Pareto", "PerGeneration"],
        "repair": ["Repair"],
        "rejection": ["failed_metrics", "outranked"],
        "trimming": ["select_by_rank_and_diversity"],
    },
)
