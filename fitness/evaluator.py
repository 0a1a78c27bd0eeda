"""Evaluation of prompts: sample N responses, reward them, and reduce them to the RIP metrics."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from evo.errors import FittestError
from evo.records import Completion, Failure, Message, Metrics, Missing, Request, Response, Sampling
from evo.seeds import SeedTree, Stage
from evo.worker import Worker
from fitness.metrics import rip_metrics

if TYPE_CHECKING:
    from evo.feeder import Feeder
    from evo.prompt import Prompt
    from evo.protocols import Journal, Reward
    from fitness.lengths import LengthUnit


class RipEvaluator:
    """The default `toolbox.evaluate`: fitness tuples (m1, m2, m3) from N rollouts of each prompt.

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
    ) -> None:
        self.n = n
        self._feeder = feeder
        self._reward = reward
        self._journal = journal
        self._seeds = seeds
        self._sampling = sampling
        self._length_unit = length_unit
        self._worker = Worker("reward")

    async def __call__(self, individuals: Sequence[Prompt]) -> list[tuple[float, ...] | None]:
        """Set responses and metrics of each individual.

        Returns:
            (m1, m2, m3) for each, or None where fewer than two responses have a reward.
        """
        return [await self._evaluate(individual) for individual in individuals]

    async def _evaluate(self, prompt: Prompt) -> tuple[float, ...] | None:
        replies = await self._feeder.ask_all(self._rollouts(prompt))
        prompt.n_drawn = self.n
        prompt.responses = await self._rewarded(prompt.text, replies)
        prompt.metrics = self._metrics(prompt.responses)
        return None if prompt.metrics is None else (prompt.metrics.m1, prompt.metrics.m2, prompt.metrics.m3)

    def _rollouts(self, prompt: Prompt) -> list[Request]:
        seeds = self._seeds.engine_seeds(Stage.ROLLOUT, int(prompt.id, 16), count=self.n)
        messages = (Message("user", prompt.text),)
        return [Request("rollout", self._sampling, seed, sample, messages) for sample, seed in enumerate(seeds)]

    async def _rewarded(self, prompt: str, replies: Sequence[Completion | Failure]) -> list[Response]:
        texts = sorted({reply.text for reply in replies if isinstance(reply, Completion)})
        rewards = await self._rewards(prompt, texts)
        return [_response(sample, reply, rewards) for sample, reply in enumerate(replies)]

    async def _rewards(self, prompt: str, texts: Sequence[str]) -> dict[str, float | Missing]:
        hashes = {text: _pair_hash(prompt, text) for text in texts}
        fingerprint = self._reward.fingerprint
        known = self._journal.rewards(fingerprint, list(hashes.values()))
        wanted = [text for text in texts if hashes[text] not in known]
        if wanted:
            scores = await self._score([prompt] * len(wanted), wanted)
            fresh = {hashes[text]: normalised(score) for text, score in zip(wanted, scores, strict=True)}
            self._journal.record_rewards(fingerprint, fresh)
            known |= fresh
        return {text: known[hashes[text]] for text in texts}

    async def _score(self, prompts: list[str], responses: list[str]) -> Sequence[float | Missing | None]:
        """Call the reward, and check that it scored each pair."""
        scores: Sequence[float | Missing | None]
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
        return scores

    def _metrics(self, responses: Sequence[Response]) -> Metrics | None:
        rewards = np.array([math.nan if r.reward is None else r.reward for r in responses])
        lengths = np.array([self._length_unit(r.text or "") for r in responses])
        table = rip_metrics(rewards, lengths, np.array([len(responses)]))
        if table.n[0] < 2:
            return None
        return Metrics(
            m1=float(table.m1[0]),
            m2=int(table.m2[0]),
            m3=float(table.m3[0]),
            chosen=int(table.chosen[0]),
            rejected=int(table.rejected[0]),
            n=int(table.n[0]),
        )


def normalised(score: float | Missing | None) -> float | Missing:
    """A reward as a finite float, or the reason why it is missing."""
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
    return value if math.isfinite(value) else Missing("reward is infinite")


def _response(sample: int, reply: Completion | Failure, rewards: dict[str, float | Missing]) -> Response:
    if isinstance(reply, Failure):
        return Response(sample=sample, text=None, reward=None, missing=reply.reason)
    reward = rewards[reply.text]
    truncated = reply.finish_reason == "length"
    if isinstance(reward, Missing):
        return Response(sample=sample, text=reply.text, reward=None, missing=reward.reason, truncated=truncated)
    return Response(sample=sample, text=reply.text, reward=reward, truncated=truncated)


def _pair_hash(prompt: str, response: str) -> str:
    """Hash of a pair; the length prefix keeps ("ab", "c") and ("a", "bc") apart."""
    return hashlib.sha256(f"{len(prompt)}:{prompt}{response}".encode()).hexdigest()
