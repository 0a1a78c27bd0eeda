"""Evaluation of prompts: sample N responses, reward them, and reduce them to the RIP metrics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from fittest.evo.errors import FittestError
from fittest.evo.keys import response_key
from fittest.evo.measurements import Measurements
from fittest.evo.protocols import AsksEngine
from fittest.evo.reasoning import CUT_INSIDE_REASONING, cut_inside_reasoning
from fittest.evo.records import (
    Completion,
    Failure,
    FreshDraw,
    Message,
    Metrics,
    Missing,
    Request,
    Response,
    Sampling,
)
from fittest.evo.seeds import SeedTree, Stream
from fittest.evo.worker import Worker
from fittest.fitness.metrics import rip_metrics
from fittest.fitness.pairing import BEST_WORST, Pairing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fittest.evo.feeder import Feeder
    from fittest.evo.prompt import Prompt
    from fittest.evo.protocols import Journal, Reward
    from fittest.evo.records import Elimination, Thresholds
    from fittest.fitness.lengths import LengthUnit
    from fittest.fitness.racing import Race, RaceTrack

MAX_REWARD = 1e100
"""A larger reward is taken for infinite, because gaps and squares of rewards must stay finite."""


class RipEvaluator:
    """Gives fitness tuples (m1, m2, m3) from N rollouts of each prompt; it is the default `toolbox.evaluate`.

    Rewards are computed beside the engine, in one worker thread, one prompt's responses at a time, and journalled
    before they are used.

    Args:
        feeder: the stream to the engine.
        reward: scores (prompt, response) pairs.
        journal: where rewards are kept.
        seeds: the run's seed tree.
        n: responses per prompt.
        sampling: how they are drawn.
        length_unit: measures m2.
        length_cap: m2 counts no length beyond it; 0 counts all of it.
        pairing: which response is the rejected one.
        track: eliminates prompts that can no longer survive; None samples all of them fully.
        halves: whether metrics of half draws are wanted as well.
    """

    def __init__(
        self,
        *,
        feeder: Feeder,
        reward: Reward,
        journal: Journal,
        seeds: SeedTree,
        n: int,
        sampling: Sampling,
        length_unit: LengthUnit,
        length_cap: int = 0,
        pairing: Pairing = BEST_WORST,
        track: RaceTrack | None = None,
        halves: bool = False,
    ) -> None:
        self.n = n
        self._feeder = feeder
        self._journal = journal
        self._seeds = seeds
        self._sampling = sampling
        self._length_unit = length_unit
        self._length_cap = length_cap or math.inf
        self._pairing = pairing
        self._track = track
        self._halves = halves
        self._worker = Worker("reward")
        self._take_reward(reward)

    async def __call__(self, individuals: Sequence[Prompt]) -> list[tuple[float, ...] | None]:
        """Sets responses and metrics of each individual.

        Args:
            individuals: prompts that passed the gates.

        Returns:
            (m1, m2, m3) of each, or None if fewer than two of its responses have a reward, or it lost a race.
        """
        return [await self._evaluate(individual) for individual in individuals]

    async def _evaluate(self, prompt: Prompt) -> tuple[float, ...] | None:
        race = None if self._track is None else self._track.race(prompt)
        prompt.audited = None if race is None or self._track is None else self._track.audited(prompt)
        prompt.responses, prompt.elimination = await self._sampled(prompt, 0, race, in_full=bool(prompt.audited))
        prompt.n_drawn = len(prompt.responses)
        if prompt.elimination is not None and not prompt.audited:
            prompt.eliminated = True
            prompt.failed_metrics = prompt.elimination.failed
        else:
            # whoever a race spared was picked by luck, so halves of theirs would say that there is less of it
            whole = bool(prompt.audited) or (race is None and prompt.birth.generation == 0)
            prompt.metrics = self._metrics(prompt.id, prompt.responses, halves=self._halves and whole)
        return None if prompt.metrics is None else prompt.metrics.values[:3]

    async def draw(self, prompt: Prompt, number: int, cuts: Thresholds | None) -> FreshDraw:
        """Draws responses once more; the prompt stays as it is.

        Args:
            prompt: a prompt that was evaluated.
            number: d ≥ 1; the draw has the samples d·n … (d + 1)·n − 1 of the prompt.
            cuts: ends the draw as soon as it fails one of them, as a race does; None samples it fully.

        Returns:
            The draw. Only one that was ended is known to have failed.
        """
        track = self._track if cuts is not None else None
        race = None if track is None or cuts is None else track.against(cuts, prompt.birth.generation)
        responses, lost = await self._sampled(prompt, number, race)
        if lost is not None:
            return FreshDraw(number, responses, len(responses), None, passed=False, failed=lost.failed)
        metrics = self._metrics(prompt.id, responses, halves=False)
        return FreshDraw(number, responses, len(responses), metrics, passed=metrics is not None)

    async def _sampled(
        self, prompt: Prompt, number: int, race: Race | None, *, in_full: bool = False
    ) -> tuple[list[Response], Elimination | None]:
        """Samples one draw of a prompt, and returns what the race found against it at first; it ends then."""
        responses: list[Response] = []
        found: Elimination | None = None
        for batch in _rounds(self._rollouts(prompt, number), race):
            responses += await self._rewarded(prompt.text, batch, await self._feeder.ask_all(batch))
            if race is not None and found is None:
                found = race.elimination([r.reward for r in responses if r.reward is not None], len(responses))
            if found is not None and not in_full:
                break
        return responses, found

    def by(self, reward: Reward) -> RipEvaluator:
        """Returns an evaluator that scores by another reward, and is like this one in everything else.

        Both share one worker thread, since their rewards may share an embedder.
        """
        other = copy(self)
        other._take_reward(reward)
        return other

    def _take_reward(self, reward: Reward) -> None:
        self._reward = reward
        self._missing_in_a_row: list[str] = []
        self._feeder.when_settled(self._missing_in_a_row.clear)
        # the votes of a judge are in the journal themselves; asked again, they count as traffic as they did before
        self._keeps_rewards = not isinstance(reward, AsksEngine)

    async def rejudge(self, prompt: Prompt) -> tuple[list[Response], Metrics | None]:
        """Returns the responses of a fully sampled prompt with new rewards, and its metrics; it stays as it is."""
        responses = await self.rescore(prompt)
        halved = prompt.metrics is not None and prompt.metrics.halves is not None
        return responses, self._metrics(prompt.id, responses, halves=halved)

    async def rescore(self, prompt: Prompt) -> list[Response]:
        """Returns the responses of a prompt with new rewards; it stays as it is."""
        rewards = await self._rewards(prompt.text, sorted({r.text for r in prompt.responses if r.text is not None}))
        return [
            response if response.text is None else _rewarded(response, rewards[response.text])
            for response in prompt.responses
        ]

    async def best_and_worst(self, prompt: Prompt) -> tuple[str, str] | None:
        """Returns the texts of the best and the worst answer of a prompt, as its metrics pair them.

        They are of the fresh draw that failed, since it decided about the prompt, unless that draw lost its race.
        Answers are kept in the journal alone, which the feeder gives them from: nothing is sent or counted again.

        Args:
            prompt: a prompt that was evaluated; nothing is known of one that lost a race.
        """
        number, metrics = 0, prompt.metrics
        for draw in prompt.fresh:
            if not draw.passed and draw.metrics is not None:
                number, metrics = draw.number, draw.metrics
        # an evaluate of the user's own has asked the engine nothing that could be asked for again
        if metrics is None or not prompt.n_drawn or metrics.chosen < 0:
            return None
        requests = self._rollouts(prompt, number)
        replies = await self._feeder.ask_all([requests[metrics.chosen], requests[metrics.rejected]])
        best, worst = (reply.text if isinstance(reply, Completion) else "" for reply in replies)
        return best, worst

    def _rollouts(self, prompt: Prompt, number: int) -> list[Request]:
        samples = range(number * self.n, (number + 1) * self.n)
        seeds = self._seeds.engine_seeds(Stream.ROLLOUT, int(prompt.id, 16), count=samples.stop)
        messages = (Message("user", prompt.text),)
        return [Request("rollout", self._sampling, seeds[sample], sample, messages) for sample in samples]

    async def _rewarded(
        self, prompt: str, requests: Sequence[Request], replies: Sequence[Completion | Failure]
    ) -> list[Response]:
        texts = sorted(
            {reply.text for reply in replies if isinstance(reply, Completion) and not cut_inside_reasoning(reply)}
        )
        rewards = await self._rewards(prompt, texts)
        return [_response(request.sample, reply, rewards) for request, reply in zip(requests, replies, strict=True)]

    async def _rewards(self, prompt: str, texts: Sequence[str]) -> dict[str, float | Missing]:
        keys = {response_key(prompt, text): text for text in texts}
        journal = self._journal if self._keeps_rewards else None
        measurements = Measurements(journal, self._reward.fingerprint, keys)
        wanted = list(measurements.wanted)
        try:
            rewards = await measurements.complete(partial(self._score, prompt))
        except FittestError:
            # what a reward that ends the run did not give before is its failure, and not that of the responses
            if journal is not None:
                journal.forget_missing(self._reward.fingerprint, self._missing_in_a_row)
            raise
        if any(isinstance(rewards[key], float) for key in wanted):
            self._missing_in_a_row.clear()
        else:
            self._missing_in_a_row += wanted
        return {text: rewards[key] for key, text in keys.items()}

    async def _score(self, prompt: str, responses: list[str]) -> list[float | Missing]:
        """Calls the reward, and checks that it scored each response."""
        prompts = [prompt] * len(responses)
        try:
            scores = await self._worker.call(self._reward.score, prompts, responses, quick=self._reward.quick)
        except FittestError:
            raise
        except Exception as error:
            raise FittestError(f"reward {self._reward.fingerprint} raised {type(error).__name__}: {error}") from error
        if not isinstance(scores, Sequence) or len(scores) != len(responses):
            given = f"{len(scores)} scores" if isinstance(scores, Sequence) else repr(scores)
            raise FittestError(
                f"reward {self._reward.fingerprint} gave {given} for {len(responses)} responses; it must give one each"
            )
        return [normalised(score) for score in scores]

    def _metrics(self, prompt: str, responses: Sequence[Response], *, halves: bool) -> Metrics | None:
        rewards = np.array([math.nan if r.reward is None else r.reward for r in responses])
        lengths = np.array([self._length_unit(r.text or "") for r in responses])
        draws = self._pairing.draws(self._seeds.seed, [prompt])
        table = rip_metrics(rewards, lengths, np.array([len(responses)]), pairing=self._pairing, draws=draws)
        if table.n[0] < 2:
            return None
        m1, m2, m3, *further = table.values[0].tolist()
        chosen, rejected, n = int(table.chosen[0]), int(table.rejected[0]), int(table.n[0])
        metrics = Metrics(m1, int(min(m2, self._length_cap)), m3, chosen, rejected, n, *further)
        return replace(metrics, halves=_halves(rewards, lengths, self._pairing, draws)) if halves else metrics


def _halves(
    rewards: NDArray[np.float64], lengths: NDArray[np.int64], pairing: Pairing, draws: NDArray[np.float64] | None
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Returns the metrics of the first and of the second half of a prompt's responses; None of fewer than four."""
    size = len(rewards) // 2
    if size < 2:
        return None
    both = None if draws is None else np.repeat(draws, 2)
    table = rip_metrics(rewards[: 2 * size], lengths[: 2 * size], np.array([size, size]), pairing=pairing, draws=both)
    first, second = table.values.tolist()
    return tuple(first), tuple(second)


def _rounds(requests: Sequence[Request], race: Race | None) -> Iterator[Sequence[Request]]:
    """Yields the rounds of a race; one without a race."""
    size = len(requests) if race is None else race.round_size
    yield from (requests[start : start + size] for start in range(0, len(requests), size))


def normalised(score: float | Missing | None) -> float | Missing:
    """Returns a reward as a finite float, or the reason why it is missing.

    Args:
        score: what a reward gave for one response.

    Raises:
        FittestError: it is no number.
    """
    if isinstance(score, Missing):
        return score
    if score is None:
        return Missing("reward is null")
    try:
        value = float(score)
    except (TypeError, ValueError):
        raise FittestError(f"a reward is {score!r}; it must be a number, or None where it is missing") from None
    if math.isnan(value):
        return Missing("reward is NaN")
    return value if abs(value) <= MAX_REWARD else Missing("reward is infinite")


def _response(sample: int, reply: Completion | Failure, rewards: dict[str, float | Missing]) -> Response:
    if isinstance(reply, Failure):
        return Response(sample=sample, text=None, reward=None, missing=reply.reason)
    response = Response(
        sample,
        reply.text,
        reward=None,
        truncated=reply.finish_reason == "length",
        reasoning=reply.reasoning,
        finish_reason=reply.finish_reason,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
    )
    if cut_inside_reasoning(reply):
        return replace(response, text=None, missing=CUT_INSIDE_REASONING)
    return _rewarded(response, rewards[reply.text])


def _rewarded(response: Response, reward: float | Missing) -> Response:
    if isinstance(reward, Missing):
        return replace(response, reward=None, missing=reward.reason)
    return replace(response, reward=reward, missing=None)
