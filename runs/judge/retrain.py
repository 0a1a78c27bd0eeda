"""Training a run's judge between its generations, on pairs that the engine makes from the survivors."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fittest.evo.errors import FittestError
from fittest.evo.seeds import SeedTree, Stream
from fittest.evo.spending import Ledger, charged_to
from fittest.fitness.evaluator import RipEvaluator
from fittest.fitness.judge.construction import construct, placed
from fittest.fitness.judge.training import NothingToLearnError, require_trl
from fittest.fitness.rewards.pairwise import PairwiseReward
from fittest.runs.config.engine import TransformersSection
from fittest.runs.judge.config import AnswersSection, JudgeConfig, JudgeSection, SamplingSection, TrainSection
from fittest.runs.judge.train import iterate
from fittest.runs.parts.rewards import likelihood_judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fittest.evo.evolution import Evolution
    from fittest.evo.protocols import Journal, Reward
    from fittest.evo.records import Completion, Failure, Request
    from fittest.fitness.judge.pair import Pair
    from fittest.runs.config import Config

HELD_OUT = 10
"""One pair in so many is held out, to stop training early and to measure it."""

FEWEST_TO_HOLD_OUT = 2 * HELD_OUT


class Teacher:
    """Trains the judge every `judge.retrain_every` generations, and lets the run go on with it.

    Each training has a folder with its pairs' judgments, the adapter and what was measured; what is finished there is
    not done again when the run is resumed. The pairs are made through the run's own feeder and journal.

    Args:
        config: of the run.
        folder: of the run.
        evolution: whose survivors pairs are made from, and whose cuts follow the judge.
        reward: whose judge is trained.
        journal: keeps what the judge computes.

    Raises:
        FittestError: training is not installed, or an evaluate of the user's own would not see the judge.
    """

    def __init__(
        self, *, config: Config, folder: Path, evolution: Evolution, reward: Reward, journal: Journal
    ) -> None:
        require_trl()
        evaluator = evolution.toolbox.evaluate.func
        if not isinstance(evaluator, RipEvaluator) or not isinstance(reward, PairwiseReward):
            raise FittestError("judge.retrain_every needs the run's own evaluate and reward")
        self._config = config
        self._folder = folder
        self._evolution = evolution
        self._evaluator = evaluator
        self._reward = reward
        self._journal = journal
        self._seeds = SeedTree(config.run.seed)

    async def before_generation(self, generation: int) -> None:
        """Train when it is time, take over the new judge, and fit the cuts to what it says of the pool."""
        rounds, left = divmod(generation - 1, self._config.judge.retrain_every)
        if left or not rounds:
            return
        self._evolution.state.phase = "training the judge"
        making = self._evolution.state.other_spending.setdefault((generation, "judge"), Ledger())
        with charged_to(making):
            pairs = await self._pairs(rounds)
        out = self._folder / "judge" / f"{rounds:04d}"
        try:
            adapter, examples = await asyncio.to_thread(self._train, pairs, out)
        except NothingToLearnError as error:
            self._note(generation, f"the judge stays as it is: {error}")
            return
        self._reward.judge = likelihood_judge(self._config.judge, adapter)
        self._reward.keep_in(self._journal)
        parents = len(self._evolution.state.population)
        recompute = self._config.judge.rewards == "recompute"
        await self._evolution.rejudge(self._evaluator.rejudge, survivors=recompute)
        what_of_parents = (
            f"{len(self._evolution.state.population)} of {parents} parents pass its cuts"
            if recompute
            else "survivors keep the rewards they have"
        )
        self._note(
            generation,
            f"the judge was trained on {examples} of {len(pairs)} pairs made from survivors; the cuts are fitted to"
            f" the pool anew, {what_of_parents}",
        )

    async def _pairs(self, rounds: int) -> list[Pair]:
        """Pairs made from survivors, drawn by seed."""
        survivors = sorted((p for p in self._evolution.state.survivors if p.breeds), key=lambda p: p.id)
        rng = self._seeds.generator(Stream.TRAINING, rounds)
        drawn = rng.permutation(len(survivors))[: self._config.judge.instructions]
        made = await construct(
            [(survivors[place].text, "") for place in sorted(drawn.tolist())],
            ask=self._ask,
            seeds=self._seeds,
            sampling=self._judge_config.answers.sampling.sampling,
            variant="modified-in-two-steps",
        )
        return placed([pair for pair in made if pair.reason is None], self._seeds)

    async def _ask(self, requests: Sequence[Request]) -> list[Completion | Failure]:
        """Through the run's feeder; what is asked for a judge's sake is no rollout of a prompt."""
        return await self._evolution.feeder.ask_all([replace(request, stage="judge") for request in requests])

    def _train(self, pairs: Sequence[Pair], out: Path) -> tuple[Path, int]:
        """Annotate and train; the new adapter, and how many pairs it learnt from."""
        if len(pairs) < 2:
            raise NothingToLearnError(f"{len(pairs)} usable pairs came out of the survivors")
        held_out = pairs[::HELD_OUT] if len(pairs) >= FEWEST_TO_HOLD_OUT else []
        rest = [pair for pair in pairs if pair not in held_out]
        found = iterate(rest, held_out, self._judge_config, out, force=True)
        rounds = found["iterations"]
        return out / f"iteration-{len(rounds)}" / "adapter", rounds[-1]["training"]["examples"]

    @property
    def _judge_config(self) -> JudgeConfig:
        """The form that `fittest judge` takes."""
        judge, answers = self._config.judge, self._config.engine.sampling
        return JudgeConfig(
            judge=JudgeSection(
                seed=self._config.run.seed,
                samples=judge.samples,
                sampling=SamplingSection(max_tokens=judge.max_tokens),
            ),
            answers=AnswersSection(sampling=SamplingSection(max_tokens=answers.max_tokens)),
            train=TrainSection(iterations=judge.iterations, epochs=judge.epochs, learning_rate=judge.learning_rate),
            engine=TransformersSection(
                model=judge.model or "", device=judge.device, samples_per_request=judge.samples
            ),
        )

    def _note(self, generation: int, what: str) -> None:
        self._evolution.state.notes.append(f"before generation {generation}: {what}")
