"""Tells the reasoning of a model from its answer, where both come in one text."""

from __future__ import annotations

from dataclasses import replace

from fittest.evo.records import Completion

_OPENS, _CLOSES = "<think>", "</think>"

CUT_INSIDE_REASONING = "cut inside its reasoning"


def without_reasoning(completion: Completion, *, begins_inside: bool = False) -> Completion:
    """Returns a completion whose text is the answer alone, with what stands before it as its reasoning.

    Reasoning is a leading `<think>…</think>`, or all that stands before a `</think>` that nothing opened: many chat
    templates open it in the prompt. Reasoning that is never closed leaves an empty answer.

    Args:
        completion: a reply.
        begins_inside: whether the chat template opens the reasoning, so that a reply which closes none has no answer.
            A reply whose reasoning came apart from its text has closed it.
    """
    text = completion.text
    begins_inside = begins_inside and completion.reasoning is None
    if _CLOSES not in text and _OPENS not in text and not begins_inside:
        return completion
    opened = begins_inside or text.lstrip().startswith(_OPENS)
    before, closed, after = text.partition(_CLOSES)
    if not opened and (not closed or _OPENS in before):
        return completion
    thought = before.lstrip().removeprefix(_OPENS).strip()
    parts = [part for part in (completion.reasoning, thought) if part]
    return replace(completion, text=after.lstrip(), reasoning="\n\n".join(parts))


def cut_inside_reasoning(completion: Completion) -> bool:
    """Tells whether a model was cut at the token limit before it began to answer."""
    return not completion.text and completion.reasoning is not None and completion.finish_reason == "length"
