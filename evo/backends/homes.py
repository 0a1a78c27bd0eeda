"""Remembers which server has read which prompt, and says where a new prompt should be read."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence


class Homes:
    """Knows the home of each prompt: the server to which its last request went, which has read it.

    A prompt without a home has an order of servers of its own (rendezvous hashing): the server whose address and the
    prompt have the highest hash comes first. The order of the others is the same whether or not this one is there. So
    a server that is lost moves its own prompts and no others, and a later session finds a prompt where it was read.

    Args:
        urls: the addresses of the servers, which are named by their positions here.
        kept: the number of prompts to remember; the one that was used longest ago is forgotten first.
    """

    def __init__(self, urls: Sequence[str], *, kept: int) -> None:
        self._urls = urls
        self._kept = kept
        # by a hash, so that no text is kept alive; if two prompts shared one, they would only share a home
        self._homes: OrderedDict[int, int] = OrderedDict()

    def home(self, key: str) -> int | None:
        """Returns the server that has read a prompt; None if that is not known.

        Args:
            key: the text that the requests of the prompt share.
        """
        return self._homes.get(hash(key))

    def settle(self, key: str, server: int) -> None:
        """Makes a server the home of a prompt.

        Args:
            key: the text that the requests of the prompt share.
            server: the position of the server.
        """
        name = hash(key)
        self._homes[name] = server
        self._homes.move_to_end(name)
        if len(self._homes) > self._kept:
            self._homes.popitem(last=False)

    def order(self, key: str) -> list[int]:
        """Returns all servers in the order in which a new prompt prefers them.

        Args:
            key: the text that the requests of the prompt share.
        """

        def weight(server: int) -> bytes:
            # a lone surrogate cannot be encoded, and needs no code of its own here
            return hashlib.sha256(f"{self._urls[server]}\0{key}".encode(errors="replace")).digest()

        return sorted(range(len(self._urls)), key=weight, reverse=True)
