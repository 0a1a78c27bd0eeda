"""Writes a short chat with the chat template on standard input; a program of its own, run by `templates.py`.

Its arguments are the seconds of computing, the bytes of memory and the characters of a chat that a template may take.
It imports nothing of this library, so that it starts in a tenth of a second.
"""

from __future__ import annotations

import resource
import sys
from contextlib import suppress

from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

TOO_MUCH = 3
"""The exit status for a template that asks for more than it may take."""

_CHAT = [{"role": "user", "content": "Say hello."}, {"role": "assistant", "content": "Hello."}]
_TOKENS = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "")


class _Generation(Extension):
    """Reads the tag that transformers has for training, which only marks a part of the text."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> None:
    raise ValueError(message)


def _write(source: str, longest: int) -> None:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.globals.update(raise_exception=_refuse, strftime_now=lambda form: "1 January 2000")
    environment.filters["tojson"] = lambda value, *_, **__: str(value)
    template = environment.from_string(source)
    for messages, opened in ((_CHAT[:1], True), (_CHAT, False)):
        written = 0
        for part in template.generate(messages=messages, add_generation_prompt=opened, tools=None, **_TOKENS):
            written += len(part)
            if written > longest:
                sys.exit(TOO_MUCH)


def _main() -> None:
    seconds, memory, longest = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(ValueError, OSError):  # macOS limits no memory
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    source = sys.stdin.buffer.read().decode(errors="replace")
    try:
        _write(source, longest)
    except (MemoryError, OverflowError, RecursionError):
        # what is too long a range for Python's sandbox may be none for llama.cpp's
        sys.exit(TOO_MUCH)
    except Exception:
        pass  # what the template cannot do, its engine will say in its own words


if __name__ == "__main__":
    _main()
