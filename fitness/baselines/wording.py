"""Writes requests about a prompt: the templates, and the fence that keeps the prompt a quotation."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from fittest.evo.prompt import prompt_id
from fittest.evo.records import Request, Sampling
from fittest.evo.seeds import SeedTree, Stream
from fittest.fitness.quoting import without_turn_markup

_BACKTICKS = re.compile("`+")


def requests_about(
    prompt: str, template: str, *, votes: int, seeds: SeedTree, sampling: Sampling, stop: tuple[str, ...]
) -> list[Request]:
    """Asks about a prompt `votes` times; the first votes are the same, however many are asked for.

    A request is a raw completion that opens the answer after worked examples. Asked in a chat, a small model answers
    the prompt instead of judging it.

    Args:
        prompt: the prompt.
        template: a file of `templates/`.
        votes: the number of requests.
        seeds: the seed tree; a seed depends on the prompt and the number of the vote alone.
        sampling: how votes are drawn.
        stop: strings that end the answer, in addition to those of `sampling`.
    """
    opening = _templates().get_template(template).render(prompt=_fenced(prompt))
    drawn = seeds.engine_seeds(Stream.JUDGE, int(prompt_id(prompt), 16), count=votes)
    stopping = replace(sampling, stop=(*sampling.stop, *stop))
    return [Request("judge", stopping, seed, vote, prompt=opening) for vote, seed in enumerate(drawn)]


def _fenced(prompt: str) -> str:
    """Puts the prompt between two lines of backticks, which are longer than any run of backticks in it."""
    text = without_turn_markup(prompt.strip("\r\n"))
    fence = "`" * max([3, *(len(run) + 1 for run in _BACKTICKS.findall(text))])
    return f"{fence}\n{text}\n{fence}"


@cache
def _templates() -> Environment:
    # StrictUndefined: a name that a template misspells shall be an error, and not an empty place in the question
    return Environment(loader=PackageLoader("fittest.fitness.baselines"), undefined=StrictUndefined, autoescape=False)
