"""Declares the options that the verbs reading a response table share: the columns' roles, and how metrics are made."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from fittest.evo.errors import FittestError
from fittest.evo.records import METRICS
from fittest.runs.cli.paths import PATH

MODEL_FILTERS = (
    "perplexity", "ifd", "instag-difficulty", "instag-diversity", "prompt-judge-binary", "prompt-judge-pointwise",
)  # fmt: skip
"""The filters that ask a model. Their names are written out here because importing their modules is slow."""


class MetricValues(click.ParamType):  # type: ignore[type-arg]
    """Parses METRIC=NUMBER, or with `ranges` METRIC=LOW-HIGH, where both ends are percentiles."""

    name = "metric"

    def __init__(self, *, ranges: bool = False) -> None:
        self._ranges = ranges

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Returns (metric, number), or (metric, (low, high))."""
        from fittest.runs.config.selection import percentile_range

        form = "METRIC=LOW-HIGH, such as m1=60-100" if self._ranges else "METRIC=NUMBER, such as m1=0.5"
        name, equals, given = str(value).partition("=")
        if not equals:
            self.fail(f"{value!r}: write it as {form}", param, ctx)
        if name not in METRICS:
            self.fail(f"{value!r}: {name!r} is no metric; there are {', '.join(METRICS)}", param, ctx)
        try:
            if self._ranges:
                low, _, high = given.partition("-")
                ends = float(low), float(high)
                percentile_range(name, *ends)
                return name, ends
            number = float(given)
        except ValueError as error:
            said = str(error)
            # float() says nothing that helps the user; percentile_range() names the wrong ends
            self.fail(said if said.startswith("percentiles of") else f"{value!r}: write it as {form}", param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r}: a cut must be a finite number", param, ctx)
        return name, number


class _Weights(click.ParamType):  # type: ignore[type-arg]
    """Parses one or more COLUMN=WEIGHT, joined by commas."""

    name = "weights"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, float]:
        """Returns column → weight, in the order given."""
        weights: dict[str, float] = {}
        for part in str(value).split(","):
            name, equals, weight = part.rpartition("=")
            if name.strip() in weights:
                self.fail(f"{name.strip()!r} has two weights", param, ctx)
            try:
                weights[name.strip()] = float(weight)
            except ValueError:
                equals = ""
            # float() accepts "nan" and "inf", which no weighted sum survives
            if not equals or not math.isfinite(weights.get(name.strip(), math.nan)):
                self.fail(f"{part!r}: write it as COLUMN=WEIGHT, such as helpfulness=0.65", param, ctx)
        return weights


def response_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds what every reader of responses takes; the command gets responses, generations, columns and scoring."""

    @functools.wraps(command)
    def with_columns(
        prompt_column: str,
        response_column: str,
        reward_column: str | None,
        reward_weights: dict[str, float] | None,
        responses: tuple[Path, ...],
        **options: Any,
    ) -> None:
        from fittest.runs.filters.run_settings import settings_of
        from fittest.runs.filters.scoring import Scoring
        from fittest.runs.sources.responses import Columns

        if reward_weights is not None and reward_column is not None:
            raise FittestError("give --reward-column, or --reward-weights of several columns, not both")
        columns = Columns(
            prompt=prompt_column, response=response_column, rewards=reward_weights or {reward_column or "reward": 1.0}
        )
        run = settings_of(responses)
        given = {name: options.pop(name) for name in _SCORING}
        scoring = replace(
            Scoring() if run is None else run.scoring,
            **{name: value for name, value in given.items() if value is not None},
        )
        command(responses=responses, columns=columns, scoring=scoring, **options)

    for decorate in reversed(_DECORATORS):
        with_columns = decorate(with_columns)
    return with_columns


_SCORING = ("reward_id", "length_unit", "pairing", "seed", "length_residual")

_DECORATORS = (
    click.argument("responses", type=PATH, nargs=-1, required=True),
    click.option(
        "--generation",
        "generations",
        type=click.IntRange(min=0),
        multiple=True,
        default=(0,),
        help="Of a run: the generation to read; repeatable.  [default: 0]",
    ),
    click.option("--prompt-column", default="prompt", show_default=True),
    click.option("--response-column", default="response", show_default=True),
    click.option("--reward-column", help="[default: reward]"),
    click.option(
        "--reward-weights",
        type=_Weights(),
        metavar="COLUMN=W,…",
        help="Use a weighted sum of columns as the reward, such as helpfulness=0.65,correctness=0.8.",
    ),
    click.option("--reward-id", help="Name of the reward.  [default: that in the table, or column:NAME]"),
    click.option("--length-unit", help="chars, words or tokens:MODEL.  [default: chars, or the run's]"),
    click.option(
        "--length-residual",
        is_flag=True,
        help="Before anything else, subtract from each reward the part that its length explains.",
    ),
    click.option(
        "--pairing", help="best-worst, best-random or best-bottom:FRACTION.  [default: best-worst, or the run's]"
    ),
    click.option(
        "--seed",
        type=click.IntRange(min=0),
        help="Seed of drawn pairings, random samples, votes and intervals.  [default: 0, or the run's]",
    ),
)
