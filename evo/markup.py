"""Keeps foreign text from being read as markup of a chat: as the end of a turn, or the beginning of another one.

A tokenizer finds its special tokens anywhere in a chat that a template has written out, also inside a message. So a
prompt could end its own turn, and write the answer that follows. What is stored stays as it is; in what is sent, each
mark gets a space after its first character, and is read as any other text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from fittest.evo.records import Message, Request

FORMATS = (
    r"<\|[^|<>\n]{1,40}\|>"  # ChatML, Llama 3, Phi, Granite, Command, Qwen, harmony
    r"|<\uff5c[^\uff5c<>\n]{1,40}\uff5c>"  # DeepSeek, whose bars are wide
    r"|<\|turn>|<turn\|>|<(?:start|end)_of_turn>"  # Gemma
    r"|</?s>|<(?:bos|eos|pad|unk)>"  # Llama 2, Mistral, Gemma
    r"|<</?SYS>>|\[/?INST\]|\[/?(?:SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]"
    r"|\[gMASK\]|<[se]op>"  # GLM
)
"""This pattern finds the marks of turns and texts in the chat formats that are in use."""

_FORMATS = re.compile(FORMATS)


class Markup:
    """Knows the marks that a model may take for the structure of a chat.

    Args:
        pattern: finds each of them; None if there are none.
        firsts: the characters with which they begin.
    """

    def __init__(self, pattern: str | None, firsts: str = "<[") -> None:
        self._begins: re.Pattern[str] | None = None
        if pattern is not None:
            # only the first character is taken, so that of two marks that overlap the second is found as well; it is
            # named first of all, since a search for a set of characters takes a third of the time
            first = f"[{re.escape(firsts)}]"
            self._begins = re.compile(f"{first}(?<=(?={pattern}){first})")

    @classmethod
    def of_model(cls, special: Iterable[str], added: Iterable[str], template: str) -> Self:
        """Returns the marks of one model.

        A mark is every special token; every other token with a name that a chat format knows, which some models have
        not marked as special; and what a template writes as plain text, as that of Llama 2 does with `[INST]`.

        Args:
            special: the special tokens.
            added: further tokens, of which most are no marks: Gemma has tokens for tags of HTML.
            template: the chat template; the empty string if there is none.
        """
        marks = {*special, *(token for token in added if _FORMATS.fullmatch(token)), *_FORMATS.findall(template)}
        # a single character cannot be broken, and is no mark in any format
        words = sorted(word for word in {mark.strip() for mark in marks} if len(word) > 1)
        firsts = "".join(sorted({word[0] for word in words}))
        return cls(f"(?:{'|'.join(map(re.escape, words))})" if words else None, firsts)

    @classmethod
    def of_tokenizer(cls, tokenizer: Any) -> Self:
        """Returns the marks of a tokenizer's model; those of all formats if it is not one of transformers."""
        decoder: Mapping[int, Any] | None = getattr(tokenizer, "added_tokens_decoder", None)
        if decoder is None:
            return cls(f"(?:{FORMATS})")
        special = (str(token) for token in decoder.values() if token.special)
        templates = tokenizer.chat_template or ""
        written = "\n".join(templates.values()) if isinstance(templates, dict) else templates
        return cls.of_model((*special, *tokenizer.all_special_tokens), map(str, decoder.values()), written)

    def defused(self, text: str) -> str:
        """Returns the text with a space inside each mark; a text without any is returned as it is."""
        return text if self._begins is None else self._begins.sub(r"\g<0> ", text)

    def in_messages(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Returns the messages without marks, but for those of the system, whose words are the user's own."""
        return tuple(
            message if message.role == "system" else message._replace(content=self.defused(message.content))
            for message in messages
        )

    def in_request(self, request: Request) -> Request:
        """Returns the request without marks."""
        if request.prompt is not None:
            return replace(request, prompt=self.defused(request.prompt))
        return replace(request, messages=self.in_messages(request.messages))


KNOWN = Markup(f"(?:{FORMATS})")
"""The marks of all known formats, for models whose tokenizer cannot be seen, such as those behind a server."""
