"""Says what to change when an OpenAI-compatible server refuses everything that it is asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence

from fittest.evo.backends.openai_format import NOT_SERVED

_OMITTED = ("temperature", "top_p", "seed", "stop", "n")
_NO_MODEL = re.compile(
    r"model_not_found|(no|unknown|invalid) (such )?model"
    r"|model\b.{0,80}\b(not exist|not found|not available|not supported|not served|no access|unknown|deprecated)",
    re.I,
)
_NO_SYSTEM = re.compile(r"system.{0,9}(role|prompt|message).{0,40}not support", re.I)
_OTHER_LIMIT = re.compile(r"max_(completion_|new_|output_)?tokens")
_TOO_MANY_TOKENS = re.compile(r"too (large|high|big|many)|at most|maximum|less than|exceed|greater than", re.I)


class Remedies:
    """Knows the keys of one engine section, and which of them mends what a server refuses.

    Args:
        section: the table of run.toml that the messages name.
        model: the name that the servers know the model by.
        extra_body: the names of the keys that are added to each body.
        omit: the parameters that are not sent already.
        token_limit: the name under which the limit on completion tokens is sent.
    """

    def __init__(
        self, section: str, model: str, *, extra_body: Collection[str], omit: Collection[str], token_limit: str
    ) -> None:
        self._section = section
        self._model = model
        self._extra_body = extra_body
        self._omit = omit
        self._token_limit = token_limit

    @property
    def address(self) -> str:
        """Returns what to check when a server knows neither the path nor the model."""
        return f"does {self._section}.base_url end in /v1, and is {self._section}.model = {self._model!r} there?"

    def for_refusal(self, status: int, path: str, words: str, served: bool) -> str:
        """Returns what to change when a server refuses what it is asked for.

        Args:
            status: the HTTP status of the refusal.
            path: the path that was asked.
            words: what the server said, and the parameter that it named, if any.
            served: whether the server has answered anything before.
        """
        only_chats = (
            'for a server that only takes chats, set [operators] form = "chat"; a run that has begun keeps its form,'
            " so choose another --out for it"
        )
        if path == "/completions" and "chat" in words.lower():
            return only_chats
        if _NO_MODEL.search(words):
            return f"set {self._section}.model = {self._model!r} to a name that the server knows"
        if status in NOT_SERVED and path == "/completions":
            return only_chats if served else f"{only_chats}; if it should take texts too, {self.address}"
        if status in NOT_SERVED:
            return self.address
        if _NO_SYSTEM.search(words):
            return f"the model takes no system prompt: take {self._section}.system out"
        return self.for_parameter(words) or (
            f"the server refuses something in the request; see {self._section}.omit, {self._section}.token_limit and"
            f" {self._section}.extra_body"
        )

    def for_parameter(self, words: str) -> str | None:
        """Returns what to change if the words name a parameter that is sent; None if they do not.

        Args:
            words: what the server said, and the parameter that it named, if any.
        """
        limit = _OTHER_LIMIT.search(words)
        if limit is not None:
            if _TOO_MANY_TOKENS.search(words):
                return "lower max_tokens in the sampling of this role"
            other = "max_completion_tokens" if self._token_limit == "max_tokens" else "max_tokens"
            return f'set {self._section}.token_limit = "{other}"'
        named = [name for name in _OMITTED if name not in self._omit and _names(words, name)]
        if len(named) > 1 and re.search(r"\bboth\b", words):
            named = named[-1:]  # one of them may stay, and temperature is the one that people set
        if named:
            # all at once, since what is left out already must stay so
            return f"set {self._section}.omit = {_toml([*self._omit, *named])}"
        key = next((key for key in self._extra_body if _names(words, key)), None)
        return None if key is None else f"take {key} out of {self._section}.extra_body"


def _names(words: str, parameter: str) -> bool:
    """Tells whether the words name a parameter; a name of one letter, or a common word, must stand in quotes."""
    name = re.escape(parameter)
    plain = (
        rf"\b{name}\b" if parameter not in ("n", "stop", "seed") else rf"""["'`]{name}["'`]|\bparameter:? {name}\b"""
    )
    return re.search(plain, words) is not None


def _toml(names: Sequence[str]) -> str:
    return json.dumps(list(dict.fromkeys(names)))
