"""Fills the templates of questions to a model, with marks that keep an instruction or answer a quotation."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from fittest.evo.records import Message
from fittest.fitness.quoting import MARK_DIGITS, without_turn_markup

TAG = re.compile(r"<(?=/?(?:first|second)>)")
"""This pattern finds where one of our own tags begins."""


def chat(template: str, *, lists: Mapping[str, Sequence[str]] | None = None, **texts: str) -> tuple[Message, ...]:
    """Fills a template into one user message; none of the texts can close the marks around it.

    Args:
        template: a file of `templates/`.
        lists: lists of our own words that the template names.
        **texts: the texts that the template quotes.
    """
    quoted = {name: without_turn_markup(text) for name, text in texts.items()}
    # to close its quotation, a text would have to contain a piece of its own hash
    digest = hashlib.sha256("\0".join(f"{name}={text}" for name, text in quoted.items()).encode()).hexdigest()
    mark = digest[:MARK_DIGITS]
    return (Message("user", _templates().get_template(template).render(mark=mark, **quoted, **(lists or {}))),)


def opening(template: str, **texts: str) -> str:
    """Fills a template into the beginning of a text that a model continues; no text can close the tags around it.

    Args:
        template: a file of `templates/`.
        **texts: the texts that the template quotes.
    """
    quoted = {name: TAG.sub("< ", without_turn_markup(text)) for name, text in texts.items()}
    return _templates().get_template(template).render(quoted)


@cache
def template_id(template: str) -> str:
    """Returns 16 hex digits over a template; they are part of the fingerprint of a judge."""
    source, _, _ = PackageLoader("fittest.fitness.judge").get_source(_templates(), template)
    return hashlib.sha256(source.encode()).hexdigest()[:16]


@cache
def _templates() -> Environment:
    # StrictUndefined: a name that a template misspells shall be an error, and not an empty place in the question
    return Environment(loader=PackageLoader("fittest.fitness.judge"), undefined=StrictUndefined, autoescape=False)
