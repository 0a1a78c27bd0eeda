"""InsTag-style difficulty and diversity: prompts are tagged by a language model, and the tags decide what is kept.

RIP used the public tagger OFA-Sys/InsTag (arXiv 2308.07074); here any chat model writes the tags.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from fittest.evo.records import Completion
from fittest.fitness.baselines.wording import requests_about

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fittest.evo.records import Failure, Request, Sampling
    from fittest.evo.seeds import SeedTree

Tags = tuple[str, ...]

TAG_TEMPLATE = "tags.j2"
OPENING = '["'
"""The end of the template, which a reply continues."""
STOP = ("]", "\n")
MOST_WORDS = 5
"""Words of the longest tag; what is longer is a sentence, not a tag."""

_TAG_FIELD = re.compile(r"""["']tag["']\s*:\s*(?:"([^"\n]+)"|'([^'\n]+)')""", re.IGNORECASE)
_QUOTED = re.compile(r""""([^"\n]+)"(?!\s*:)|(?<!\w)'([^\n]+?)'(?=\s*[,\]])""")
_FENCE_LINE = re.compile(r"^\s*`{3,}.*$", re.MULTILINE)
_BULLET = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s+(.+)$", re.MULTILINE)
_EXPLANATION = re.compile(r"\s*(?::|\s[-–—]\s|\().*\Z", re.DOTALL)
_LABEL = re.compile(r"\A\W*(?:[\w ,.!'’]{1,60} )?tags?\b\W*:\s*", re.IGNORECASE)
_NO_PHRASE = re.compile(r"[.!?]\W*\Z|[:{}]|\A\W*(?:sure|okay|sorry|(?:i|as|here|the|this)\b)", re.IGNORECASE)


def tag_requests(prompts: Sequence[str], seeds: SeedTree, sampling: Sampling) -> list[Request]:
    """One request for tags per prompt, in the order of the prompts; `read_tags` reads the replies.

    Args:
        prompts: what is tagged.
        seeds: a request's seed depends on its own prompt alone.
        sampling: temperature 0 is usual for tagging.
    """
    return [
        request
        for prompt in prompts
        for request in requests_about(prompt, TAG_TEMPLATE, votes=1, seeds=seeds, sampling=sampling, stop=STOP)
    ]


def read_tags(replies: Sequence[Completion | Failure]) -> list[Tags | None]:
    """Tags of each prompt from the replies to `tag_requests`; None where the request failed."""
    return [parse_tags(OPENING + reply.text) if isinstance(reply, Completion) else None for reply in replies]


def parse_tags(text: str) -> Tags:
    """The tags in a reply: lower-cased, words parted by single spaces, each once, in order; () where there is none.

    Read are a JSON list of strings or of objects with a "tag" (also when cut off, fenced or single-quoted), a list of
    bullets, and short phrases parted by commas or line ends. Sentences are no tags.
    """
    found = _tag_fields(text) or _json_strings(text) or _quoted_strings(text) or _bullets(text) or _phrases(text)
    tags = dict.fromkeys(_normalised(tag) for tag in found)
    return tuple(tag for tag in tags if 0 < len(tag.split()) <= MOST_WORDS)


def difficulty(tags: Sequence[Tags | None], min_tags: int = 2) -> NDArray[np.bool_]:
    """InsTag difficulty: keep the prompts that have many tags (arXiv 2501.18578, appendix A.5, then samples 10,000).

    Args:
        tags: of each prompt, None where they are missing, shape (prompts,).
        min_tags: fewest tags of a prompt that is kept; the paper reports 2.

    Returns:
        Whether each prompt is kept, shape (prompts,); a prompt without tags that were read never is.
    """
    return np.array([some is not None and len(some) >= min_tags for some in tags], dtype=np.bool_)


def diversity(tags: Sequence[Tags | None], *, min_frequency: int = 6, max_per_tag: int = 3) -> NDArray[np.bool_]:
    """InsTag diversity: cover every common tag, each by few prompts (arXiv 2501.18578, appendix A.5).

    Tags of fewer than `min_frequency` prompts are ignored. From the prompt with most tags to the one with fewest, in
    file order among equals, a prompt is kept when one of its tags stands on fewer than `max_per_tag` kept prompts.

    Args:
        tags: of each prompt, None where they are missing, shape (prompts,).
        min_frequency: prompts that must have a tag for it to count; the paper reports 6.
        max_per_tag: prompts after which a tag is covered; the paper reports 3.

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
    """Values of "tag" in a list of objects, the published tagger's own form."""
    return [double or single for double, single in _TAG_FIELD.findall(text)]


def _json_strings(text: str) -> list[str]:
    """Strings of the first JSON list that has some."""
    for bracket in re.finditer(r"\[(?=\s*\")", text):
        try:
            found, _ = json.JSONDecoder().raw_decode(text, bracket.start())
        except (ValueError, RecursionError):
            continue
        if strings := [item for item in found if isinstance(item, str)]:
            return strings
    return []


def _quoted_strings(text: str) -> list[str]:
    """Finished strings of a list that is no JSON: cut off, or with single quotation marks."""
    inside = text.partition("[")[2].partition("{")[0]
    return [double or single for double, single in _QUOTED.findall(inside)]


def _bullets(text: str) -> list[str]:
    """Phrases of a list of bullets; what explains a tag is cut off, and sentences are left out."""
    items = [_split(_EXPLANATION.sub("", item)) for item in _BULLET.findall(text)]
    return [phrase for phrases in items if _all_short(phrases) for phrase in phrases]


def _phrases(text: str) -> list[str]:
    """Phrases of a reply that consists of nothing else, but for a heading."""
    lines = [line for line in _LABEL.sub("", _FENCE_LINE.sub("", text)).splitlines() if line.strip()]
    phrases = [phrase for line in lines for phrase in _split(line.rstrip("."))]
    return [] if any(_NO_PHRASE.search(phrase) for phrase in phrases) or not _all_short(phrases) else phrases


def _split(line: str) -> list[str]:
    return [phrase for phrase in re.split("[,;]", line) if phrase.strip()]


def _all_short(phrases: list[str]) -> bool:
    return all(len(phrase.split()) < MOST_WORDS for phrase in phrases)


def _normalised(tag: str) -> str:
    """Lower-cased words of letters and digits, each once: small models stammer."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", tag).lower())
    words = "".join(letter if unicodedata.category(letter)[0] in "LMN" else " " for letter in text).split()
    return " ".join(dict.fromkeys(words))
