"""From the [reward], [judge] and [diversity] of a configuration to a reward and an embedder, which may be shared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from fittest.evo.engines import Engines
from fittest.evo.protocols import Backend, Embedder, Reward
from fittest.evo.seeds import SeedTree
from fittest.fitness.rewards.callable import FunctionReward, RewardFunction
from fittest.runs.config.embedder import EMBEDDERS, SentenceTransformersSection
from fittest.runs.config.engine import NullSection
from fittest.runs.config.reward import REWARDS, ServedClassifierSection
from fittest.runs.models import local_path, weights_of

if TYPE_CHECKING:
    from fittest.fitness.rewards.pairwise import LikelihoodJudge
    from fittest.runs.config import Config
    from fittest.runs.config.embedder import HashSection
    from fittest.runs.config.reward import (
        ClassifierSection,
        HeadSection,
        HttpRewardSection,
        JudgeRewardSection,
        NullRewardSection,
        PairwiseSection,
        RecordedSection,
        RunJudgeSection,
    )


@dataclass(frozen=True)
class RewardContext:
    """What a reward may build on: the whole configuration, and the run's own engines and embedder.

    Attributes:
        config: the configuration.
        backend: the engine that answers.
        embedder: the run's embedder.
        judge: the engine that votes for this reward, which may be the one that answers.
    """

    config: Config
    backend: Backend
    embedder: Embedder
    judge: Backend


def embedder_of(config: Config) -> Embedder:
    """Returns the configured embedder, not loaded yet."""
    section = config.diversity.embedder
    return cast("Embedder", EMBEDDERS.make(section.kind, section, config.diversity.device))


def hashing(section: HashSection, device: str) -> Embedder:
    """Returns feature hashing."""
    from fittest.fitness.embedders.hashing import HashEmbedder

    return HashEmbedder()


def sentence_transformers(section: SentenceTransformersSection, device: str) -> Embedder:
    """Returns a sentence-transformers model."""
    from fittest.fitness.embedders.minilm import MiniLM

    return MiniLM(folder=local_path(section.model), device=device)


def reward_of(config: Config, engines: Engines, embedder: Embedder) -> Reward:
    """Returns the configured reward, not loaded yet."""
    context = RewardContext(config, engines.policy.backend, embedder, engines.of("judge").backend)
    return cast("Reward", REWARDS.make(config.reward.kind, config.reward, context))


def audit_of(config: Config, engines: Engines, embedder: Embedder) -> Reward | None:
    """Returns the reward of [audit], which decides nothing, not loaded yet; None if there is no such table."""
    if config.audit is None:
        return None
    context = RewardContext(config, engines.policy.backend, embedder, engines.of("auditor").backend)
    return cast("Reward", REWARDS.make(config.audit.kind, config.audit, context))


def head(section: HeadSection, context: RewardContext) -> Reward:
    """Returns the preference head, on the run's own embedder if that is the one it was fitted to."""
    from fittest.fitness.rewards.head import PreferenceHead

    fitted_to, device = SentenceTransformersSection(), context.config.diversity.device
    same = context.config.diversity.embedder == fitted_to
    return PreferenceHead(embedder=context.embedder if same else sentence_transformers(fitted_to, device))


def null(section: NullRewardSection, context: RewardContext) -> Reward:
    """Returns the reward that needs no model."""
    from fittest.fitness.rewards.null import NullReward

    engine = context.config.engine
    found = section.world or (engine.world if isinstance(engine, NullSection) else None)
    return NullReward(None if found is None else found.world)


def recorded(section: RecordedSection, context: RewardContext) -> Reward:
    """Returns the rewards of a table."""
    from fittest.fitness.rewards.recorded import RecordedReward
    from fittest.runs.sources.responses import Columns, read_responses

    columns = Columns(prompt=section.prompt_column, response=section.response_column, rewards=section.columns)
    table = read_responses(Path(section.path), columns)
    return RecordedReward(table.rewards(), fingerprint=columns.reward_id)


def judge(section: JudgeRewardSection, context: RewardContext) -> Reward:
    """Returns scores that an engine gives."""
    from fittest.fitness.rewards.judge import JudgeReward

    return JudgeReward(
        engine=context.judge.fingerprint,
        seeds=SeedTree(context.config.run.seed),
        scale=section.scale,
        votes=section.votes,
    )


def pairwise(section: PairwiseSection, context: RewardContext) -> Reward:
    """Returns comparisons with a reference answer, by an engine or by a judge in this process."""
    from fittest.fitness.rewards.pairwise import PairwiseReward, VotingJudge

    config, engine = context.config, context.backend.fingerprint
    seeds = SeedTree(config.run.seed)
    return PairwiseReward(
        judge=VotingJudge(context.judge.fingerprint, seeds, votes=section.repeats)
        if config.judge.model is None
        else likelihood_judge(config.judge, config.judge.adapter),
        engine=engine,
        seeds=seeds,
        max_tokens=config.engine.sampling.max_tokens,
    )


def likelihood_judge(judge: RunJudgeSection, adapter: Path | str | None) -> LikelihoodJudge:
    """Returns the judge of a run that is a model in this process."""
    from fittest.evo.backends.transformers import Transformers
    from fittest.fitness.judge.likelihood import TransformersVerdicts
    from fittest.fitness.rewards.pairwise import LikelihoodJudge

    model = weights_of(judge.model or "")
    return LikelihoodJudge(TransformersVerdicts(Transformers(model=model, adapter=adapter, device=judge.device)))


def classifier(section: ClassifierSection | ServedClassifierSection, context: RewardContext) -> Reward:
    """Returns a reward model, on servers or in this process."""
    if isinstance(section, ServedClassifierSection):
        from fittest.fitness.rewards.served import ServedReward

        return ServedReward(
            base_url=section.base_url,
            model=section.model,
            api=section.api,
            batch=section.batch or 16,
            api_key_env=section.api_key_env,
            headers_env=section.headers_env,
            extra_query=section.extra_query,
            slots=section.slots,
            timeout=section.timeout,
            max_reply_mib=section.max_reply_mib,
        )
    from fittest.fitness.rewards.classifier import ClassifierReward

    return ClassifierReward(
        model=section.model,
        device=context.config.diversity.device,
        dtype=section.dtype,
        batch_tokens=section.batch_tokens,
        trust_remote_code=section.trust_remote_code,
    )


def http(section: HttpRewardSection, context: RewardContext) -> Reward:
    """Returns the rewards of a service."""
    from fittest.fitness.rewards.http import HttpReward

    return HttpReward(
        url=section.url,
        name=section.name,
        model=section.model,
        batch=section.batch,
        api_key_env=section.api_key_env,
        headers_env=section.headers_env,
        extra_query=section.extra_query,
        slots=section.slots,
        timeout=section.timeout,
        max_reply_mib=section.max_reply_mib,
    )


def given_reward(reward: Reward | RewardFunction) -> Reward:
    """Returns a reward of the user's own, or a function that is to be one, as a reward."""
    return cast("Reward", reward) if hasattr(reward, "score") else FunctionReward(reward)
