"""From one survivor to the rows of a training format: each format is one small function (docs/exports.md)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fittest.runs.config.kinds import Registry

Row = dict[str, Any]

TRUNCATED, MIN_GAP, PAIRING, REFERENCE = "--drop-truncated", "--min-gap", "--pairing", "--with-reference"
"""The options that not every format can use."""

_OF_PAIRS = frozenset({TRUNCATED, MIN_GAP, PAIRING})


@dataclass(frozen=True, slots=True)
class Exporter:
    """Describes one format; it has either a function or columns.

    Attributes:
        rows: takes one survivor and returns the rows that it becomes; no row leaves the survivor out. The survivor has
            the columns of survivors.parquet and those that `exported_survivors` adds.
        columns: the columns that are written as they are.
        options: the options that the format can use.
        paired: whether every row comes from a pair of answers, so that survivors without one are left out.
        by_response: whether there is a row for each response, and not for each survivor.
    """

    rows: Callable[[Row], Iterable[Row]] | None = None
    columns: tuple[str, ...] = ()
    options: frozenset[str] = frozenset()
    paired: bool = False
    by_response: bool = False


def trl_preference(survivor: Row) -> Iterator[Row]:
    """Yields TRL's conversational preference row; a survivor whose two answers are equal is left out."""
    if _has_pair(survivor):
        yield {
            "prompt": _prompt(survivor),
            "chosen": [_turn("assistant", survivor["chosen"])],
            "rejected": [_turn("assistant", survivor["rejected"])],
            **_columns(survivor, "prompt_id", "source", "licence", "chosen_reward", "rejected_reward"),
            **_judge(survivor),
            **_there(survivor, "ref_chosen_logps", "ref_rejected_logps"),
        }


def _reward_pairs(survivor: Row) -> Iterator[Row]:
    """Yields a row of TRL's RewardTrainer: two whole conversations, and the reward gap as the margin of its loss."""
    if _has_pair(survivor) and survivor["reward_gap"] is not None:
        prompt = _prompt(survivor)
        yield {
            "chosen": [*prompt, _turn("assistant", survivor["chosen"])],
            "rejected": [*prompt, _turn("assistant", survivor["rejected"])],
            "margin": survivor["reward_gap"],
            **_columns(survivor, "prompt_id", "source", "licence", "chosen_reward", "rejected_reward", "reward_id"),
        }


def _trl_sft(survivor: Row) -> Iterator[Row]:
    """Yields TRL's conversational supervised row: the prompt and its best answer."""
    if survivor["chosen"] is not None:
        yield {
            "messages": [*_prompt(survivor), _turn("assistant", survivor["chosen"])],
            **_columns(survivor, "prompt_id", "source", "licence", "chosen_reward"),
            **_judge(survivor),
        }


def _kto(survivor: Row) -> Iterator[Row]:
    """Yields TRL's unpaired rows: the best answer with label true, and the worst with label false."""
    if _has_pair(survivor):
        for answer, label in (("chosen", True), ("rejected", False)):
            yield {
                "prompt": _prompt(survivor),
                "completion": [_turn("assistant", survivor[answer])],
                "label": label,
                **_columns(survivor, "prompt_id", "source", "licence"),
            }


def _grpo(survivor: Row) -> Iterator[Row]:
    """Yields a row of TRL's GRPOTrainer, which hands every column but `prompt` to the reward functions by its name."""
    yield {
        "prompt": _prompt(survivor),
        **_columns(survivor, "prompt_id", "source", "licence"),
        "reference": survivor["chosen"],
        **_seen(survivor),
    }


def _verl(survivor: Row) -> Iterator[Row]:
    """Yields a row of verl's RLHFDataset; its rewards come from a model, which may compare with the best answer."""
    yield {
        # verl chooses a reward function by this name, and counts by it: one name for all rows, whatever their source
        "data_source": "fittest",
        "prompt": _prompt(survivor),
        "ability": "alignment",
        "reward_model": {"style": "model", "ground_truth": survivor["chosen"] or ""},
        "extra_info": {
            "split": survivor["split"],
            "index": survivor["index"],
            **_columns(survivor, "prompt_id", "source", "licence"),
            **_seen(survivor),
        },
    }


def _prime_rl(survivor: Row) -> Iterator[Row]:
    """Yields a row of a verifiers environment, which is what prime-rl trains on."""
    info = {**_columns(survivor, "prompt_id", "source", "licence"), **_seen(survivor)}
    yield {
        "example_id": survivor["index"],
        "prompt": _prompt(survivor),
        "answer": survivor["chosen"] or "",
        # as text, because verifiers parses it, and a null in one row then changes no type in another
        "info": json.dumps(info, ensure_ascii=False),
    }


_PROMPT_COLUMNS = ("prompt", "prompt_id", "generation", "operator", "source", "licence")
"""A file of these columns can be the pool of another run."""

_RESPONSE_COLUMNS = (
    "prompt_id", "prompt", "sample", "response", "reasoning", "reward", "reward_id", "length", "finish_reason",
    "truncated", "prompt_tokens", "completion_tokens", "engine", "generation", "operator", "source", "licence",
)  # fmt: skip
"""What a model thought before its answer is a column of its own."""


def _exporter(loaded: object) -> Exporter:
    """Returns what an entry point gave as an exporter; it must be callable."""
    if not callable(loaded):
        raise TypeError(f"expected a function, found {type(loaded).__name__}")
    return Exporter(loaded, options=_OF_PAIRS)


EXPORTERS = Registry[Exporter](
    "fittest.exporters",
    "exporter",
    {
        "trl-preference": Exporter(trl_preference, options=_OF_PAIRS | {REFERENCE}, paired=True),
        "reward-pairs": Exporter(_reward_pairs, options=_OF_PAIRS, paired=True),
        "kto": Exporter(_kto, options=_OF_PAIRS, paired=True),
        "trl-sft": Exporter(_trl_sft, options=frozenset({TRUNCATED})),
        "grpo": Exporter(_grpo),
        "verl": Exporter(_verl),
        "prime-rl": Exporter(_prime_rl),
        "prompts": Exporter(columns=_PROMPT_COLUMNS),
        "responses": Exporter(columns=_RESPONSE_COLUMNS, by_response=True),
    },
    accept=_exporter,
)
"""Unlike the kinds of other groups, a plug-in is the function itself: it has no table in a configuration."""


def _has_pair(survivor: Row) -> bool:
    """Tells whether a survivor has two answers that differ."""
    chosen, rejected = survivor["chosen"], survivor["rejected"]
    return chosen is not None and rejected is not None and chosen != rejected


def _prompt(survivor: Row) -> list[dict[str, str]]:
    """Returns the messages that the model answered: the system prompt, if the run has one, and the prompt."""
    system = survivor["system"]
    return [*([] if system is None else [_turn("system", system)]), _turn("user", survivor["prompt"])]


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _seen(survivor: Row) -> Row:
    """Returns the rewards seen so far, by the names that a reward function reads them under."""
    return _columns(survivor, "chosen_reward", "rejected_reward", "reward_mean", "reward_std", "reward_id")


def _judge(survivor: Row) -> Row:
    """Names the reward of a row where the table holds rewards of several judges, which do not compare."""
    return _columns(survivor, "reward_id") if survivor["mixed_rewards"] else {}


def _there(survivor: Row, *names: str) -> Row:
    return {name: survivor[name] for name in names if name in survivor}


def _columns(survivor: Row, *names: str) -> Row:
    return {name: survivor[name] for name in names}
