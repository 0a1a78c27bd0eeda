"""From the [reward], [judge] and [diversity] of a configuration to a reward and an embedder, which may be shared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from fittest.evo.protocols import Backend, Embedder, Reward
from fittest.evo.seeds import SeedTree
from fittest.fitness.rewards.callable import FunctionReward, RewardFunction
from fittest.runs.models import local_path, weights_of

if TYPE_CHECKING:
    from fittest.fitness.rewards.pairwise import LikelihoodJudge
    from fittest.runs.config import Config
    from fittest.runs.config.reward import RewardSection, RunJudgeSection


def embedder_of(config: Config) -> Embedder:
    """The configured embedder, not loaded yet."""
    name = config.diversity.embedder
    if name == "hash":
        from fittest.fitness.embedders.hashing import HashEmbedder

        return HashEmbedder()
    return minilm(name, config.diversity.device)


def minilm(name: str, device: str) -> Embedder:
    """A sentence-transformers model, not loaded yet."""
    from fittest.fitness.embedders.minilm import MiniLM

    return MiniLM(folder=local_path(name), device=device)


def reward_of(config: Config, backend: Backend, embedder: Embedder) -> Reward:
    """The configured reward, not loaded yet."""
    reward = config.reward
    if reward.kind == "null":
        from fittest.fitness.rewards.null import NullReward

        return NullReward()
    if reward.kind == "recorded":
        return _recorded(reward)
    if reward.kind == "judge":
        from fittest.fitness.rewards.judge import JudgeReward

        return JudgeReward(
            engine=backend.fingerprint,
            seeds=SeedTree(config.run.seed),
            scale=reward.scale or 10,
            votes=reward.votes or 10,
        )
    if reward.kind == "pairwise":
        return _pairwise(config, backend)
    if reward.kind == "classifier":
        return _classifier(reward, config.diversity.device)
    from fittest.fitness.rewards.head import PreferenceHead

    same = config.diversity.embedder == "minilm"
    return PreferenceHead(embedder=embedder if same else minilm("minilm", config.diversity.device))


def _pairwise(config: Config, backend: Backend) -> Reward:
    from fittest.fitness.rewards.pairwise import PairwiseReward, VotingJudge

    seeds = SeedTree(config.run.seed)
    return PairwiseReward(
        judge=VotingJudge(backend.fingerprint, seeds, votes=config.reward.votes or 1)
        if config.judge.model is None
        else likelihood_judge(config.judge, config.judge.adapter),
        engine=backend.fingerprint,
        seeds=seeds,
        max_tokens=config.engine.sampling.max_tokens,
    )


def likelihood_judge(judge: RunJudgeSection, adapter: Path | str | None) -> LikelihoodJudge:
    """The judge of a run that is a model in this process."""
    from fittest.evo.backends.transformers import Transformers
    from fittest.fitness.judge.likelihood import TransformersVerdicts
    from fittest.fitness.rewards.pairwise import LikelihoodJudge

    model = weights_of(judge.model or "")
    return LikelihoodJudge(TransformersVerdicts(Transformers(model=model, adapter=adapter, device=judge.device)))


def _classifier(reward: RewardSection, device: str) -> Reward:
    if reward.base_url:
        from fittest.fitness.rewards.served import ServedReward

        return ServedReward(
            base_url=reward.base_url,
            model=reward.model or "",
            api_key_env=reward.api_key_env,
            slots=reward.slots or 64,
            timeout=reward.timeout or 600.0,
        )
    from fittest.fitness.rewards.classifier import ClassifierReward

    return ClassifierReward(
        model=reward.model or "",
        device=device,
        dtype=reward.dtype or "auto",
        batch_tokens=reward.batch_tokens or 0,
        trust_remote_code=reward.trust_remote_code or False,
    )


def _recorded(reward: RewardSection) -> Reward:
    from fittest.fitness.rewards.recorded import RecordedReward
    from fittest.runs.sources.responses import Columns, read_responses

    columns = Columns(
        prompt=reward.prompt_column or "prompt",
        response=reward.response_column or "response",
        rewards=reward.weights or {reward.column or "reward": 1.0},
    )
    table = read_responses(Path(reward.path or ""), columns)
    return RecordedReward(table.rewards(), fingerprint=columns.reward_id)


def given_reward(reward: Reward | RewardFunction) -> Reward:
    """A reward of the user's own, or a function that is to be one."""
    return cast("Reward", reward) if hasattr(reward, "score") else FunctionReward(reward)
