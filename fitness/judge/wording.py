"""What a model is told: templates, and the marks that keep an instruction or answer a quotation."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from fittest.evo.records import Message
from fittest.fitness.quoting import without_turn_markup

TAG = re.compile(r"<(?=/?(?:first|second)>)")
"""Where one of our own tags begins."""


def chat(template: str, *, lists: Mapping[str, Sequence[str]] | None = None, **texts: str) -> tuple[Message, ...]:
    """One user turn; none of the texts can close the marks that stand around it.

    Args:
        template: a file of `templates/`.
        lists: our own words that it names.
        texts: what it quotes.
    """
    quoted = {name: without_turn_markup(text) for name, text in texts.items()}
    # to close its quotation a text would have to hold a piece of its own hash
    mark = hashlib.sha256("\0".join(f"{name}={text}" for name, text in quoted.items()).encode()).hexdigest()[:8]
    return (Message("user", _templates().get_template(template).render(mark=mark, **quoted, **(lists or {}))),)


def opening(template: str, **texts: str) -> str:
    """The beginning of a text that a model goes on with; none of the texts can close the tags that stand around it.

    Args:
        template: a file of `templates/`.
        texts: what it quotes.
    """
    quoted = {name: TAG.sub("< ", without_turn_markup(text)) for name, text in texts.items()}
    return _templates().get_template(template).render(quoted)


@cache
def template_id(template: str) -> str:
    """16 hex digits over a template."""
    source, _, _ = PackageLoader("fittest.fitness.judge").get_source(_templates(), template)
    return hashlib.sha256(source.encode()).hexdigest()[:16]


@cache
def _templates() -> Environment:
    return Environment(loader=PackageLoader("fittest.fitness.judge"), undefined=StrictUndefined, autoescape=False)
