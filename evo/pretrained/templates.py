"""Tries a model's chat template out, since it is a program: one that never ends is refused before it is used.

Jinja's sandbox keeps a template from everything outside of it, but not from loops in loops or from endless texts. So
the trial is another process, which the operating system ends at a limit of time or of memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from fittest.evo.errors import FittestError
from fittest.evo.hiding import without_secret_variables

_TRIAL = Path(__file__).with_name("template_trial.py")
_SECONDS = 2
_BYTES = 512 * 2**20
_LONGEST = 2**20
"""The most characters of a template, and of what it writes about two short messages."""

# for a machine that has no time for the trial
_WALL_SECONDS = 120


@cache
def check_template(template: str, model: str) -> None:
    """Lets another process write a short chat with the template, once for each template.

    Args:
        template: the chat template; the empty string passes.
        model: the name of the model, for the message.

    Raises:
        FittestError: the template does not end, or writes or needs too much.
    """
    if not template or (len(template) <= _LONGEST and _ends(template)):
        return
    raise FittestError(
        f"{model}: its chat template is refused: it writes no short chat within {_SECONDS} s of computing,"
        f" {_BYTES >> 20} MiB of memory and {_LONGEST:,} characters"
    )


def _ends(template: str) -> bool:
    limits = map(str, (_SECONDS, _BYTES, _LONGEST))
    command = [sys.executable, "-P", str(_TRIAL), *limits]
    content = template.encode(errors="replace")
    try:
        done = subprocess.run(
            command,
            input=content,
            capture_output=True,
            timeout=_WALL_SECONDS,
            check=False,
            env=without_secret_variables(os.environ),
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
