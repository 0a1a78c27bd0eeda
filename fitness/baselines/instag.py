"""Filters prompts as InsTag does, by difficulty and diversity: a language model tags them, and the tags decide.

RIP used the public tagger OFA-Sys/InsTag (arXiv 2308.07074); here any chat model writes the tags.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from fittest.evo.legible import legible
from fittest.evo.records import Completion
from fittest.fitness.baselines.wording import requests_about

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fittest.evo.records import Failure, Request, Sampling
    from fittest.evo.seeds import SeedTree

_Tags = tuple[str, ...]

_TAG_TEMPLATE = "tags.j2"
# the end of the template, which a reply continues
_OPENING = '["'
_STOP = ("]", "\n")
# the most words of a tag; a longer text is a sentence
_MOST_WORDS = 5
# a reply that begins more lists than this holds none
_LISTS_TRIED = 16

_TAG_FIELD = re.compile(r"""["']tag["']\s*:\s*(?:"([^"\n]+)"|'([^'\n]+)')""", re.IGNORECASE)
_QUOTED = re.compile(r""""([^"\n]+)"(?!\s*:)|(?<!\w)'([^\n]{1,200}?)'(?=\s*[,\]])""")
_FENCE_LINE = re.compile(r"^\s*`{3,}.*$", re.MULTILINE)
_BULLET = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s+(.+)$", re.MULTILINE)
_EXPLANATION = re.compile(r"\s*(?::|\s[-–—]\s|\().*\Z", re.DOTALL)
_LABEL = re.compile(r"\A\W*(?:[\w ,.!'’]{1,60} )?tags?\b\W*:\s*", re.IGNORECASE)
_NO_PHRASE = re.compile(r"[.!?]\W*\Z|[:{}]|\A\W*(?:sure|okay|sorry|(?:i|as|here|the|this)\b)", re.IGNORECASE)


def tag_requests(prompts: Sequence[str], seeds: SeedTree, sampling: Sampling) -> list[Request]:
    """Returns one request for tags per prompt, in the order of the prompts; `read_tags` reads the replies.

    Args:
        prompts: the prompts to tag.
        seeds: the seed tree; a request's seed depends on its own prompt alone.
        sampling: how tags are drawn; temperature 0 is usual.
    """
    return [
        request
        for prompt in prompts
        for request in requests_about(prompt, _TAG_TEMPLATE, votes=1, seeds=seeds, sampling=sampling, stop=_STOP)
    ]


def read_tags(replies: Sequence[Completion | Failure]) -> list[_Tags | None]:
    """Returns the tags of each prompt from the replies to `tag_requests`; None where the request failed."""
    return [_parse_tags(_OPENING + reply.text) if isinstance(reply, Completion) else None for reply in replies]


def _parse_tags(text: str) -> _Tags:
    """Returns the tags in a reply: lower-cased, words separated by single spaces, each once, in their order.

    It reads a JSON list of strings or of objects with a "tag" (also when cut off, fenced or single-quoted), a list of
    bullets, and short phrases separated by commas or line ends. Sentences are not taken for tags.

    Args:
        text: the reply, with the opening that it continues.

    Returns:
        The tags; () if there are none.
    """
    text = legible(text)
    # from the strictest form to the loosest: each later one would also find something in the earlier ones
    found = _tag_fields(text) or _json_strings(text) or _quoted_strings(text) or _bullets(text) or _phrases(text)
    tags = dict.fromkeys(_normalised(tag) for tag in found)
    return tuple(tag for tag in tags if 0 < len(tag.split()) <= _MOST_WORDS)


def difficulty(tags: Sequence[_Tags | None], min_tags: int = 2) -> NDArray[np.bool_]:
    """Keeps the prompts that have many tags: InsTag difficulty (arXiv 2501.18578, appendix A.5).

    The paper then samples 10,000 of them.

    Args:
        tags: the tags of each prompt, None where they are missing, shape (prompts,).
        min_tags: the fewest tags of a prompt that is kept; the paper reports 2.

    Returns:
        Whether each prompt is kept, shape (prompts,); a prompt whose tags are missing is never kept.
    """
    return np.array([some is not None and len(some) >= min_tags for some in tags], dtype=np.bool_)


def diversity(tags: Sequence[_Tags | None], *, min_frequency: int = 6, max_per_tag: int = 3) -> NDArray[np.bool_]:
    """Covers every common tag with few prompts: InsTag diversity (arXiv 2501.18578, appendix A.5).

    _Tags of fewer than `min_frequency` prompts are ignored. The prompts are visited from the one with most tags to the
    one with fewest, equal ones in file order; a prompt is kept if one of its tags is on fewer than `max_per_tag` kept
    prompts.

    Args:
        tags: the tags of each prompt, None where they are missing, shape (prompts,).
        min_frequency: the number of prompts that must have a tag for it to count; the paper reports 6.
        max_per_tag: the number of prompts after which a tag is covered; the paper reports 3.

    Returns:
        Whether each prompt is kept, shape (prompts,).
    """
    distinct = [set(some or ()) for some in tags]
    frequency = Counter(tag for some in distinct for tag in some)
    common = [[tag for tag in some if frequency[tag] >= min_frequency] for some in distinct]
    used: Counter[str] = Counter()
    keep = np.zeros(len(tags), dtype=np.bool_)
    for position in sorted(range(len(tags)), key=lambda position: -len(common[position])):
        if any(used[tag] < max_per_tag for tag in common[position]):
            keep[position] = True
            used.update(common[position])
    return keep


def _tag_fields(text: str) -> list[str]:
    """Reads values of "tag" in a list of objects, the form of the published tagger."""
    return [double or single for double, single in _TAG_FIELD.findall(text)]


def _json_strings(text: str) -> list[str]:
    """Reads the strings of the first JSON list that has some."""
    for bracket in islice(re.finditer(r"\[(?=\s*\")", text), _LISTS_TRIED):
        try:
            found, _ = json.JSONDecoder().raw_decode(text, bracket.start())
        except (ValueError, RecursionError):
            continue
        if strings := [item for item in found if isinstance(item, str)]:
            return strings
    return []


def _quoted_strings(text: str) -> list[str]:
    """Reads the finished strings of a list that is not JSON: cut off, or with single quotation marks."""
    inside = text.partition("[")[2].partition("{")[0]
    return [double or single for double, single in _QUOTED.findall(inside)]


def _bullets(text: str) -> list[str]:
    """Reads the phrases of a list of bullets; explanations of a tag are cut off, and sentences are left out."""
    items = [_split(_EXPLANATION.sub("", item)) for item in _BULLET.findall(text)]
    return [phrase for phrases in items if _all_short(phrases) for phrase in phrases]


def _phrases(text: str) -> list[str]:
    """Reads the phrases of a reply that consists of nothing else, except for a heading."""
    lines = [line for line in _LABEL.sub("", _FENCE_LINE.sub("", text)).splitlines() if line.strip()]
    phrases = [phrase for line in lines for phrase in _split(line.rstrip("."))]
    return [] if any(_NO_PHRASE.search(phrase) for phrase in phrases) or not _all_short(phrases) else phrases


def _split(line: str) -> list[str]:
    return [phrase for phrase in re.split("[,;]", line) if phrase.strip()]


def _all_short(phrases: list[str]) -> bool:
    # stricter than for a quoted tag, since prose has commas and line ends too
    return all(len(phrase.split()) < _MOST_WORDS for phrase in phrases)


def _normalised(tag: str) -> str:
    """Lower-cases a tag and keeps each of its words once, because small models repeat words."""
    # normalised twice: lower-casing can bring back a form that NFKC replaces
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", tag).lower())
    words = "".join(letter if unicodedata.category(letter)[0] in "LMN" else " " for letter in text).split()
    return " ".join(dict.fromkeys(words))
