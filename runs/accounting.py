"""What the event log of a journal says about how busy the engine was."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby


def idle_fraction(changes: Iterable[tuple[int, float, int]], slots: int) -> float | None:
    """Share of slot time in which no request ran, from first submission to last completion of each session.

    A request that was in flight when its session ended counts as running until that session's last completion.

    Args:
        changes: (session, seconds, +1 or −1), ordered by session and time.
        slots: requests the engine works on at once.

    Returns:
        1 − mean(min(in flight, slots)) / slots, or None when nothing was sent.
    """
    busy = total = 0.0
    for _, events in groupby(changes, key=lambda change: change[0]):
        in_flight, previous = 0, None
        pending_busy = pending_total = 0.0
        for _, at, change in events:
            if previous is not None:
                pending_total += at - previous
                pending_busy += (at - previous) * min(in_flight, slots)
            if change < 0:
                busy, total = busy + pending_busy, total + pending_total
                pending_busy = pending_total = 0.0
            in_flight += change
            previous = at
    return 1.0 - busy / (slots * total) if total else None
