"""Words the requests of operators: exemplars and answers that cannot break them, templates, and both forms of each."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fittest.evo.markup import FORMATS, Markup
from fittest.evo.records import Message, Proposal

if TYPE_CHECKING:
    from collections.abc import Sequence

_OPENING_TAG, _CLOSING_TAG = "<task>", "</task>"
_THOUGHTS = "Thoughts:"

# text that would close the item, open another, or reach the engine's tokenizer as a special token
_MARKUP = Markup(rf"(?i:</?task\b|<\||{FORMATS})")
_BLANK_LINES = re.compile(r"\n\s*\n")
# characters that are shown of an answer: enough to see how it goes about the task, and few beside the exemplars
_EXCERPT = 300
_WORD = re.compile(r"[^\W\d_]{2,}")
# words of requests and grammar: a prompt about "describe" would descend from no parent in particular
_SAYS_LITTLE = frozenset({
    "about", "and", "are", "between", "can", "could", "describe", "did", "different", "difference", "does", "explain",
    "find", "following", "for", "from", "give", "has", "have", "how", "into", "please", "should", "some", "something",
    "tell", "that", "the", "their", "there", "these", "things", "think", "this", "through", "want", "was", "what",
    "when", "where", "which", "while", "who", "why", "will", "with", "would", "write", "you", "your",
})  # fmt: skip


def as_item(text: str) -> str:
    """Returns a prompt in the form that fits between our tags: markup gets a space, and blank lines are removed."""
    return _BLANK_LINES.sub("\n", _MARKUP.defused(text.strip()))


def as_excerpt(answer: str) -> str:
    """Returns the beginning of an answer on one line, which can open no other line of the request."""
    # on one line first, since that may complete a mark
    words = _MARKUP.defused(" ".join(answer.split()))
    if len(words) <= _EXCERPT:
        return words or "(nothing)"
    # at a blank, where there is one: half a word looks like a mistake of whoever answered
    return f"{words[:_EXCERPT].rpartition(' ')[0] or words[:_EXCERPT]} …"


def telling_words(text: str) -> list[str]:
    """Returns the two longest words that are about something, in their order in the text."""
    # long words are seldom grammar, in other languages too, for which there is no list of words that say little
    words = list(dict.fromkeys(_WORD.findall(text)))
    about = [word for word in words if word.lower() not in _SAYS_LITTLE] or words or ["anything"]
    longest = sorted(about, key=len, reverse=True)[:2]
    return sorted(longest, key=about.index)


def proposed(template: str, opening: str, asked: Sequence[str], answered: Sequence[str]) -> Proposal:
    """Returns a proposal in both forms; they have the same draws, so that the form changes nothing else in a run.

    Args:
        template: names the wording.
        opening: the text to continue, which ends with a tag that opens.
        asked: what the user says in each turn of the chat, the last of which is open.
        answered: the prompts that are the answers of all turns but the last.
    """
    messages = _chat("chat/system", asked, [f"{_OPENING_TAG}{item}{_CLOSING_TAG}" for item in answered])
    return Proposal(template, messages=messages, prompt=opening, stop=(_CLOSING_TAG,), prefill=_OPENING_TAG)


def thought_out(template: str, opening: str, asked: Sequence[str], answered: Sequence[str]) -> Proposal:
    """Returns a proposal in both forms whose reply thinks before it writes a prompt in tags.

    Args:
        template: names the wording.
        opening: the text to continue, which ends where thoughts begin.
        asked: what the user says in each turn of the chat, the last of which is open.
        answered: the answers of all turns but the last, thoughts and tags included.
    """
    messages = _chat("chat/system_thinks", asked, answered)
    return Proposal(template, messages, opening, stop=(_CLOSING_TAG,), prefill=_THOUGHTS, thinks=True)


def _chat(system: str, asked: Sequence[str], answered: Sequence[str]) -> tuple[Message, ...]:
    messages = [Message("system", rendered(system))]
    for question, answer in zip(asked, answered, strict=False):
        messages += [Message("user", question), Message("assistant", answer)]
    return (*messages, Message("user", asked[-1]))


def rendered(template: str, **names: object) -> str:
    """Returns a template filled in.

    Args:
        template: its path below `templates`, without the ending.
        **names: what it refers to.
    """
    return _templates().get_template(f"{template}.j2").render(**names)


@cache
def worded(name: str) -> dict[str, Any]:
    """Returns how a kind of change is worded: headings and labels, a request for the chat, and worked examples.

    Args:
        name: the path of its TOML file below `templates`, without the ending.
    """
    return tomllib.loads(resources.files("fittest.operators").joinpath(f"templates/{name}.toml").read_text("utf-8"))


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("fittest.operators"),
        # a name that a template misspells shall be an error, and not an empty place in the request
        undefined=StrictUndefined,
        autoescape=False,
        # blanks around the blocks of a template must not reach the model, which would continue them
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["telling_words"] = telling_words
    return environment
