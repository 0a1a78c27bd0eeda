"""The tokens that a likelihood is taken over: a text, and what stands before it in the model's chat template."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from fittest.evo.pretrained.loading import chat_tokens, load_pretrained
from fittest.evo.records import Message


class ChatTokens:
    """A model's tokenizer and chat template.

    Args:
        model: a folder, a .gguf file, or a name on the hub.
    """

    def __init__(self, model: str) -> None:
        self._name = model

    def opening(self, context: str | None) -> list[int]:
        """What stands before a text: the user turn and the head of the answer, or what begins any text.

        Raises:
            FittestError: there is a context, and no chat template to put it in.
        """
        if context is None:
            begin = self.tokenizer.bos_token_id
            return [begin] if begin is not None and begin in self.tokenizer("").input_ids else []
        return chat_tokens(self.tokenizer, [Message("user", context)])

    def encode(self, text: str) -> list[int]:
        """The tokens of a text alone."""
        tokens: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return tokens

    @cached_property
    def tokenizer(self) -> Any:
        """Loaded when it is first needed."""
        return load_pretrained("AutoTokenizer", self._name)
