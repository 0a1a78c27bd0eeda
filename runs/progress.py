"""Shows a person how far a run is: by one live line on a terminal, elsewhere by a plain line every few seconds."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from fittest.evo.protocols import TellsOfServers
from fittest.evo.visible import visible
from fittest.runs.terminal import tell, visible_streams

if TYPE_CHECKING:
    from rich.live import Live

    from fittest.evo.evolution import Evolution
    from fittest.evo.lanes import Lane
    from fittest.evo.state import Generation, State


class Progress(Protocol):
    """Watches a run."""

    def say(self, line: str) -> None:
        """Shows something that a user should know before the run begins."""

    async def watch(self, evolution: Evolution) -> None:
        """Shows how far the run is, until the task is cancelled."""

    def close(self, evolution: Evolution) -> None:
        """Shows the state in which the run ended."""


async def watched(evolution: Evolution, progress: Progress | None) -> None:
    """Runs an evolution; `progress`, unless it is None, watches it in a task of its own."""
    if progress is None:
        await evolution.run()
        return
    watcher = asyncio.create_task(progress.watch(evolution))
    try:
        await evolution.run()
    finally:
        watcher.cancel()
        with suppress(asyncio.CancelledError):
            await watcher
        progress.close(evolution)


class Meter:
    """Writes the figures of a running evolution as one line of text.

    Args:
        n: the number of responses per prompt.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self._began = time.monotonic()
        self._said: set[str] = set()

    def line(self, evolution: Evolution) -> str:
        """Returns phase, rollouts, tokens per second, busy slots, survivors, what waits for servers, and time left."""
        state, feeder, settings = evolution.state, evolution.feeder, evolution.settings
        slots = settings.offspring if state.generation else len(evolution.pool)
        elapsed = time.monotonic() - self._began
        rate = feeder.fresh.total.completion_tokens / elapsed if elapsed else 0.0
        done = feeder.traffic["rollout"].requests
        parts = [
            f"generation {state.generation}/{settings.generations} {state.phase}",
            f"{state.proposed} of {slots} prompts gated, {state.evaluated} scored",
            _rollouts(done, state, self._n),
            f"{rate:.0f} tokens/s",
            _slots(feeder.lanes),
            f"{len(state.survivors)} survivors",
        ]
        if feeder.ending:
            parts.append(f"stopping ({feeder.ending}) when what is in flight has arrived")
        parts += [
            f"no server answers, asked again and again: {server.trouble}"
            for server in evolution.servers
            if server.trouble
        ]
        parts += [server.waits for server in evolution.servers if isinstance(server, TellsOfServers) and server.waits]
        left = self._seconds_left(evolution, done, elapsed)
        if left is not None:
            parts.append(f"about {duration(left)} left")
        return " · ".join(parts)

    def news(self, evolution: Evolution) -> list[str]:
        """Returns what there is to say of the servers that has not been said before."""
        news = [note for note in evolution.notes_of_servers if note not in self._said]
        self._said.update(news)
        return news

    def _seconds_left(self, evolution: Evolution, done: int, elapsed: float) -> float | None:
        """Estimates the seconds left: offspring are assumed to pass the gates as often as earlier ones did."""
        # replies out of the journal cost no time, so only the rollouts of this session give the pace
        fresh = evolution.feeder.fresh["rollout"].requests
        if fresh < self._n:
            return None
        state, settings = evolution.state, evolution.settings
        offspring = [len(g.candidates) for g in state.finished[1:]]
        accepted = sum(p.gate is None for g in state.finished[1:] for p in g.candidates)
        share = accepted / sum(offspring) if offspring else 1.0
        prompts = len(evolution.pool) + settings.generations * settings.offspring * share
        # racing draws fewer responses than n for some prompts, and confirmation more
        in_all = state.drawn_in_all + state.confirming["rollout"].requests
        drawn = in_all / state.sampled_in_all if state.sampled_in_all else self._n
        expected = prompts * drawn
        return max(0.0, expected - done) * elapsed / fresh


class _LiveProgress:
    """Redraws one line in place.

    Args:
        n: the number of responses per prompt.
    """

    def __init__(self, n: int) -> None:
        self._meter = Meter(n)
        self._live: Live | None = None
        self._printed = 0

    def say(self, line: str) -> None:
        """Prints the line."""
        tell(line)

    async def watch(self, evolution: Evolution) -> None:
        """Redraws the line four times a second; each finished generation leaves a line above it."""
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        console = Console(stderr=True)
        # rich's own refreshing is a thread, which would read the run while it changes
        # what is printed meanwhile passes through the live line, so the guard of the streams has to stand before it
        live = Live(console=console, auto_refresh=False, transient=True)
        with live as self._live, visible_streams():
            while True:
                for generation in evolution.state.finished[self._printed :]:
                    console.print(Text(visible(_summary_line(generation))))
                    self._printed += 1
                for line in self._meter.news(evolution):
                    console.print(Text(visible(line)))
                self._live.update(Text(visible(self._meter.line(evolution))), refresh=True)
                await asyncio.sleep(0.25)

    def close(self, evolution: Evolution) -> None:
        """Prints the generations that have not been shown."""
        _print_finished(evolution, self._printed)
        _print_all(self._meter.news(evolution))


class PlainProgress:
    """Prints plain lines, for logs and pipes.

    Args:
        n: the number of responses per prompt.
        every: seconds between two lines.
    """

    def __init__(self, n: int, *, every: float = 10.0) -> None:
        self._meter = Meter(n)
        self._every = every
        self._printed = 0

    def say(self, line: str) -> None:
        """Prints the line."""
        tell(line)

    async def watch(self, evolution: Evolution) -> None:
        """Prints a line every few seconds, and one for each finished generation."""
        due = time.monotonic() + self._every
        while True:
            await asyncio.sleep(min(0.5, self._every))
            self._printed = _print_finished(evolution, self._printed)
            _print_all(self._meter.news(evolution))
            if time.monotonic() >= due:
                tell(self._meter.line(evolution))
                due += self._every

    def close(self, evolution: Evolution) -> None:
        """Prints the generations that have not been shown."""
        self._printed = _print_finished(evolution, self._printed)
        _print_all(self._meter.news(evolution))


def progress_for_terminal(n: int) -> Progress:
    """Returns the live line if standard error is a terminal, and plain lines otherwise.

    Args:
        n: the number of responses per prompt.
    """
    return _LiveProgress(n) if sys.stderr.isatty() else PlainProgress(n)


def _summary_line(generation: Generation) -> str:
    """Describes one finished generation in one line."""
    record = generation.record
    turned_away = sum(prompt.gate is not None for prompt in generation.candidates)
    rate = "" if record["pass_rate"] is None else f" ({record['pass_rate']:.0%})"
    cuts = [
        f"m1 ≥ {record['tau_m1']:.3f}" if record["tau_m1"] is not None else None,
        f"m2 ≥ {record['tau_m2']:.0f}" if record["tau_m2"] is not None else None,
        f"m3 ≤ {record['tau_m3']:.3f}" if record["tau_m3"] is not None else None,
    ]
    return (
        f"generation {generation.number}: {len(generation.candidates)} candidates, {turned_away} turned away by gates,"
        f" {record['evaluated']} scored, {record['passed']} survived{rate}"
        + (f"; cuts {', '.join(cut for cut in cuts if cut)}" if any(cuts) else "")
    )


def _slots(lanes: Sequence[Lane]) -> str:
    """Says how many slots are busy; of several engines, each by the role that it is there for."""
    if len(lanes) == 1:
        return f"{lanes[0].in_flight}/{lanes[0].slots} slots"
    return "slots: " + ", ".join(f"{lane.roles[0]} {lane.in_flight}/{lane.slots}" for lane in lanes)


def _rollouts(done: int, state: State, n: int) -> str:
    """Says how many responses have been drawn, and how many racing has saved on the prompts that are finished."""
    full = state.sampled_in_all * n
    if state.drawn_in_all == full:
        return f"{done} rollouts"
    return f"{done} rollouts, racing saved {full - state.drawn_in_all}"


def _print_finished(evolution: Evolution, printed: int) -> int:
    """Prints the finished generations after the first `printed`; returns how many are printed now."""
    for generation in evolution.state.finished[printed:]:
        tell(_summary_line(generation))
    return len(evolution.state.finished)


def _print_all(lines: Sequence[str]) -> None:
    for line in lines:
        tell(line)


def duration(seconds: float) -> str:
    """Returns a number of seconds in words, for example "2 min 05 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
