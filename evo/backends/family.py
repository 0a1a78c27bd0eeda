"""Reads out of a request for a proposal which of the prompts shown there it asks to be bred from."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fittest.evo.records import Request

_ITEM = re.compile(r"<task>(.*?)</task>", re.DOTALL)
# the item that a text leaves open: the next of a list, after its words if it has some
_NEXT_OF_LIST = re.compile(r"\d+\. (?P<words>\(.*\) )?<task>\Z")


def family_of(request: Request) -> list[str]:
    """Returns the parents if the request names some, and all exemplars otherwise.

    A text that goes on with the next item of a list is about all items, or about the last two where the items come
    with words to be joined. Any other is about those of its last paragraph. A chat shows them in its last turn, or
    has them as its answers.

    Args:
        request: one that an operator wrote, in any of its forms.
    """
    if request.prompt is not None:
        following = _NEXT_OF_LIST.search(request.prompt)
        if following is None:
            return _ITEM.findall(request.prompt.rpartition("\n\n")[2])
        return _ITEM.findall(request.prompt)[-2 if following["words"] else 0 :]
    if changed := _ITEM.findall(request.user_text):
        return list(changed)
    answers = [message.content for message in request.messages if message.role == "assistant"]
    shown = [item for answer in answers for item in _ITEM.findall(answer)]
    return shown[-2 if "the last two" in request.user_text else 0 :]
