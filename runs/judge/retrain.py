"""Trains a run's judge between its generations, on pairs that the engine makes from the survivors."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fittest.evo.errors import FittestError
from fittest.evo.seeds import SeedTree, Stream
from fittest.evo.spending import Ledger, charged_to
from fittest.fitness.judge.construction import construct, placed
from fittest.fitness.judge.training import NothingToLearnError, require_trl
from fittest.fitness.rewards.pairwise import PairwiseReward
from fittest.runs.config.engine import TransformersSection
from fittest.runs.judge.config import JudgeConfig
from fittest.runs.judge.train import iterate
from fittest.runs.parts.rewards import likelihood_judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fittest.evo.evolution import Evolution
    from fittest.evo.protocols import Journal, Reward
    from fittest.evo.records import Completion, Failure, Request
    from fittest.fitness.judge.pair import Pair
    from fittest.runs.config import Config

_HELD_OUT = 10
"""One pair in this many is held out, to stop training early and to measure the judge."""

_FEWEST_TO_HOLD_OUT = 2 * _HELD_OUT


class Teacher:
    """Trains the judge every `judge.retrain_every` generations, and lets the run go on with it.

    Each training has a folder with the judgments of its pairs, the adapter and the measured accuracy; what is finished
    there is not repeated when the run is resumed. The pairs are made through the run's own feeder and journal.

    Args:
        config: the configuration of the run.
        folder: the folder of the run.
        reward: the reward whose judge is trained.
        journal: the journal that keeps what the judge computes.

    Raises:
        FittestError: training is not installed, or a reward of the user's own has no judge.
    """

    def __init__(self, *, config: Config, folder: Path, reward: Reward, journal: Journal) -> None:
        require_trl()
        if not isinstance(reward, PairwiseReward):
            raise FittestError("judge.retrain_every needs the run's own evaluate and reward")
        self._config = config
        self._folder = folder
        self._reward = reward
        self._journal = journal
        self._seeds = SeedTree(config.run.seed)

    async def before_generation(self, evolution: Evolution, generation: int) -> None:
        """Trains if the generation is due, and then fits the cuts to the new judge's rewards of the pool.

        Args:
            evolution: the run; pairs are made from its survivors, and its cuts follow the judge.
            generation: the number of the generation that is about to begin.
        """
        rounds, left = divmod(generation - 1, self._config.judge.retrain_every)
        if left or not rounds:
            return
        state = evolution.state
        state.phase = "training the judge"
        with charged_to(state.other_spending.setdefault((generation, "judge"), Ledger())):
            pairs = await self._pairs(evolution, rounds)
        out = self._folder / "judge" / f"{rounds:04d}"
        try:
            adapter, examples = await asyncio.to_thread(self._train, pairs, out)
        except NothingToLearnError as error:
            what = f"the judge stays as it is: {error}"
        else:
            change = await self._take_over(adapter, evolution)
            what = f"the judge was trained on {examples} of {len(pairs)} pairs made from survivors; {change}"
        state.notes.append(f"before generation {generation}: {what}")

    async def _take_over(self, adapter: Path, evolution: Evolution) -> str:
        """Replaces the judge by the trained one, and describes what this changes."""
        self._reward.judge = likelihood_judge(self._config.judge, adapter)
        self._reward.keep_in(self._journal)
        parents = len(evolution.state.population)
        recompute = self._config.judge.rewards == "recompute"
        await evolution.rejudge(evolution.toolbox.rejudge, survivors=recompute)
        what_of_parents = (
            f"{len(evolution.state.population)} of {parents} parents pass its cuts"
            if recompute
            else "survivors keep the rewards they have"
        )
        return f"the cuts are fitted to the pool anew, {what_of_parents}"

    async def _pairs(self, evolution: Evolution, rounds: int) -> list[Pair]:
        """Makes pairs from survivors, which are drawn by seed."""
        survivors = sorted((p for p in evolution.state.survivors if p.breeds), key=lambda p: p.id)
        rng = self._seeds.generator(Stream.TRAINING, rounds)
        drawn = rng.permutation(len(survivors))[: self._config.judge.instructions]

        async def ask(requests: Sequence[Request]) -> list[Completion | Failure]:
            # these requests are counted as judging, since they are no rollouts of a prompt
            return await evolution.feeder.ask_all([replace(request, stage="judge") for request in requests])

        made = await construct(
            [(survivors[place].text, "") for place in sorted(drawn.tolist())],
            ask=ask,
            seeds=self._seeds,
            sampling=self._judge_config.answers.sampling.sampling,
            variant="modified-in-two-steps",
        )
        return placed([pair for pair in made if pair.reason is None], self._seeds)

    def _train(self, pairs: Sequence[Pair], out: Path) -> tuple[Path, int]:
        """Annotates and trains; returns the new adapter, and how many pairs it learnt from."""
        if len(pairs) < 2:
            raise NothingToLearnError(f"{len(pairs)} usable pairs came out of the survivors")
        held_out = pairs[::_HELD_OUT] if len(pairs) >= _FEWEST_TO_HOLD_OUT else []
        rest = [pair for pair in pairs if pair not in held_out]
        found = iterate(rest, held_out, self._judge_config, out, force=True)
        rounds = found["iterations"]
        return out / f"iteration-{len(rounds)}" / "adapter", rounds[-1]["training"]["examples"]

    @property
    def _judge_config(self) -> JudgeConfig:
        """Returns the configuration in the form that `fittest judge` uses."""
        judge, answers = self._config.judge, self._config.engine.sampling
        return JudgeConfig.model_validate(
            {
                "judge": {
                    "seed": self._config.run.seed,
                    "samples": judge.samples,
                    "sampling": {"max_tokens": judge.max_tokens},
                },
                "answers": {"sampling": {"max_tokens": answers.max_tokens}},
                "train": {
                    "iterations": judge.iterations,
                    "epochs": judge.epochs,
                    "learning_rate": judge.learning_rate,
                },
                "engine": TransformersSection(
                    model=judge.model or "", device=judge.device, samples_per_request=judge.samples
                ),
            }
        )
