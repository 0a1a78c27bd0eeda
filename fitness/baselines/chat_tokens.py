"""Tokenizes what a likelihood is taken over: a text, and what comes before it in the model's chat template."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from fittest.evo.pretrained.chats import chat_tokens, markup_of
from fittest.evo.pretrained.loading import load_pretrained
from fittest.evo.records import Message


class ChatTokens:
    """Tokenizes texts for a model, with its chat template.

    Args:
        model: a folder, a .gguf file, or a name on the hub.
    """

    def __init__(self, model: str) -> None:
        self._name = model

    def opening(self, context: str | None) -> list[int]:
        """Returns the tokens that come before a text.

        Args:
            context: the user message that the text answers, set in the chat template; None for a text alone, which
                begins with the begin-of-text token if the tokenizer sets one.

        Raises:
            FittestError: there is a context, but the tokenizer has no chat template.
        """
        if context is None:
            begin = self.tokenizer.bos_token_id
            return [begin] if begin is not None and begin in self.tokenizer("").input_ids else []
        return chat_tokens(self.tokenizer, [Message("user", context)])

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text alone."""
        tokens: list[int] = self.tokenizer(
            markup_of(self.tokenizer).defused(text), add_special_tokens=False, verbose=False
        ).input_ids
        return tokens

    @cached_property
    def tokenizer(self) -> Any:
        """Returns the tokenizer, which is loaded on first use."""
        return load_pretrained("AutoTokenizer", self._name)
