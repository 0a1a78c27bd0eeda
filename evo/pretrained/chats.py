"""Writes chats by the template of a model's tokenizer, in which no message can hold a mark of a turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from fittest.evo.errors import FittestError
from fittest.evo.markup import Markup
from fittest.evo.pretrained.templates import check_template

if TYPE_CHECKING:
    from fittest.evo.records import Message


@lru_cache(maxsize=8)
def markup_of(tokenizer: Any) -> Markup:
    """Returns the marks of a tokenizer of transformers, which are looked for once."""
    return Markup.of_tokenizer(tokenizer)


def chat_tokens(tokenizer: Any, messages: Sequence[Message], begun: str = "") -> list[int]:
    """Returns the tokens of a chat up to where the answer begins, and those of the answer so far.

    No message, nor the answer, can hold a token that marks a turn.

    Args:
        tokenizer: the tokenizer of the model.
        messages: the chat.
        begun: the beginning of the answer.

    Raises:
        FittestError: the tokenizer has no chat template, or one that cannot write this chat.
    """
    markup = markup_of(tokenizer)
    turns = [message._asdict() for message in markup.in_messages(messages)]
    opening = written(tokenizer, turns, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(opening + markup.defused(begun), add_special_tokens=False).input_ids)


def with_sane_template(tokenizer: Any, model: str) -> Any:
    """Returns a tokenizer after a trial of its chat templates.

    Args:
        tokenizer: a tokenizer of transformers.
        model: the name of the model, for the message.

    Raises:
        FittestError: a template does not end, or writes or needs too much.
    """
    templates = getattr(tokenizer, "chat_template", None) or ""
    for template in templates.values() if isinstance(templates, dict) else (templates,):
        check_template(template, model)
    return tokenizer


def written(tokenizer: Any, turns: Sequence[Mapping[str, str]], **options: Any) -> Any:
    """Returns a chat as the template writes it.

    Args:
        tokenizer: the tokenizer of the model.
        turns: the messages.
        **options: further arguments of `apply_chat_template`.

    Raises:
        FittestError: the tokenizer has no chat template, or one that cannot write this chat.
    """
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise FittestError(f"{tokenizer.name_or_path}: the tokenizer has no chat template; expected a chat model")
    try:
        return tokenizer.apply_chat_template(turns, **options)
    except TemplateError as error:
        reason = " ".join(str(error).split())
        raise FittestError(f"{tokenizer.name_or_path}: its chat template cannot write this chat: {reason}") from None
