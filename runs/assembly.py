"""From a configuration to an evolution: the one place where parts are made and put together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from deap import base

from evo.arms import ARMS
from evo.breeding import ALIASES, Breeder, parents_taken
from evo.errors import FittestError
from evo.evolution import Evolution, Settings
from evo.feeder import Feeder
from evo.gatekeeper import Gatekeeper
from evo.protocols import (
    AsksEngine,
    Backend,
    Embedder,
    Gate,
    Journal,
    KeepsInJournal,
    Operator,
    Reward,
    ThresholdPolicy,
)
from evo.records import Sampling
from evo.seeds import SeedTree
from evo.spending import Budget
from evo.steady_state import SteadyState
from evo.turns import Turn, Turns
from fitness.diversity import NeighbourDiversity, vendi_score
from fitness.evaluator import RipEvaluator
from fitness.lengths import length_unit
from fitness.pairing import parse_pairing
from fitness.racing import RaceTrack
from fitness.rewards.callable import FunctionReward, RewardFunction
from operators.few_shot import Cross, Mutate, SelfRip
from operators.gates import Language, build_gates
from operators.parsing import parse_candidate
from operators.rejection import failed_metrics, outranked
from operators.trimming import select_by_rank_and_diversity
from runs.models import find_model, local_path, vllm_model
from runs.pools import STARTER_POOL, Pool, read_pool
from runs.selection import policy_of, selects_by_rank, settings_of, why_not_raced

if TYPE_CHECKING:
    from fitness.rewards.pairwise import LikelihoodJudge
    from runs.config import Config
    from runs.engine_section import EngineSection
    from runs.journal import SqliteJournal
    from runs.reward_section import JudgeSection, RewardSection


@dataclass(frozen=True)
class Parts:
    """What a run is put together from, before anything is loaded or asked."""

    pool: Pool
    backend: Backend
    reward: Reward
    embedder: Embedder
    operators: Mapping[str, Operator]
    gates: Sequence[Gate]
    files: Mapping[str, str]

    @property
    def fingerprints(self) -> dict[str, str]:
        """What results depend on, by name: engine, reward, embedder, pool, and files that the configuration names."""
        return {
            "engine": self.backend.fingerprint,
            "reward": self.reward.fingerprint,
            "embedder": self.embedder.fingerprint,
            "pool": self.pool.fingerprint,
            **self.files,
        }


def build(
    config: Config,
    *,
    journal: SqliteJournal,
    reward: Reward | RewardFunction | None = None,
    operators: Mapping[str, Operator] | None = None,
) -> Evolution:
    """An evolution as configured, with the user's own reward or operators where given.

    Raises:
        FittestError: the pool or a model is not there, or an operator of the mix is not known.
    """
    return assemble(config, parts_of(config, reward=reward, operators=operators), journal=journal)


def parts_of(
    config: Config,
    *,
    reward: Reward | RewardFunction | None = None,
    operators: Mapping[str, Operator] | None = None,
) -> Parts:
    """Make the parts that a configuration names; nothing is loaded yet, but everything is known to be there."""
    pool = pool_of(config)
    check_device(config.diversity.device)
    backend, embedder = backend_of(config.engine), embedder_of(config)
    named = {"reward.path": config.reward.path, "selection.thresholds": config.selection.thresholds}
    return Parts(
        pool=pool,
        backend=backend,
        reward=reward_of(config, backend, embedder) if reward is None else _given_reward(reward),
        embedder=embedder,
        operators=_operators(config, operators or {}),
        gates=_gates(config),
        files={key: _digest(Path(path)) for key, path in named.items() if path is not None},
    )


def assemble(config: Config, parts: Parts, *, journal: Journal, seconds_before: float = 0.0) -> Evolution:
    """Put parts together; `journal` keeps what they produce."""
    seeds = SeedTree(config.run.seed)
    caps = config.budget.model_dump(exclude={"target_survivors"})
    feeder = Feeder(
        parts.backend,
        journal,
        budget=Budget(**caps, prices=config.prices.table),
        seconds_before=seconds_before,
        together=config.engine.samples_per_request or 1,
    )
    if isinstance(parts.reward, AsksEngine):
        parts.reward.connect(feeder.ask_all)
    if isinstance(parts.reward, KeepsInJournal):
        parts.reward.keep_in(journal)
    policy = policy_of(config, reward_id=parts.reward.fingerprint)
    settings = settings_of(config, pool_size=len(parts.pool.prompts))
    toolbox = _toolbox(config, parts, feeder, journal, seeds)
    toolbox.register("evaluate", _evaluator(config, parts, feeder, journal, seeds, policy, settings))
    proposals = config.operators.sampling
    loop: Callable[..., Evolution] = Evolution
    if config.run.mode == "steady-state":
        loop = partial(SteadyState, turns=Turns(journal, _recorded_turns(config)))
    return loop(
        pool=parts.pool.prompts,
        toolbox=toolbox,
        feeder=feeder,
        gatekeeper=Gatekeeper(parts.gates, embedder=parts.embedder, journal=journal),
        breeder=Breeder(
            toolbox=toolbox,
            feeder=feeder,
            seeds=seeds,
            mix=config.operators.mix,
            shots=config.operators.shots,
            sampling=Sampling(proposals.temperature, proposals.top_p, proposals.max_tokens),
        ),
        policy=policy,
        settings=settings,
    )


def _evaluator(
    config: Config,
    parts: Parts,
    feeder: Feeder,
    journal: Journal,
    seeds: SeedTree,
    policy: ThresholdPolicy,
    settings: Settings,
) -> RipEvaluator:
    rollouts, selection = config.engine.sampling, config.selection
    track = RaceTrack(
        n=rollouts.n,
        round_size=selection.race_round,
        known=policy.known,
        metrics=settings.metrics_of,
        confidence=selection.race_confidence,
        audit=selection.race_audit if selection.race_confidence else 0.0,
        seeds=seeds,
    )
    return RipEvaluator(
        feeder=feeder,
        reward=parts.reward,
        journal=journal,
        seeds=seeds,
        n=rollouts.n,
        sampling=Sampling(rollouts.temperature, rollouts.top_p, rollouts.max_tokens),
        length_unit=length_unit(selection.length_unit, find_model),
        pairing=parse_pairing(selection.pairing),
        track=track if why_not_raced(config, reward_id=parts.reward.fingerprint) is None else None,
    )


def _toolbox(config: Config, parts: Parts, feeder: Feeder, journal: Journal, seeds: SeedTree) -> base.Toolbox:
    """Every step of the loop under a name, each of which a user may register anew."""
    toolbox = base.Toolbox()
    toolbox.register("select", select_by_rank_and_diversity)
    toolbox.register("stock", ARMS[config.run.arm])
    toolbox.register("reject", outranked if selects_by_rank(config) else failed_metrics)
    toolbox.register("parse", parse_candidate)
    toolbox.register(
        "diversity", NeighbourDiversity(neighbours=config.diversity.neighbours, device=config.diversity.device)
    )
    toolbox.register("vendi", vendi_score)
    for name, operator in parts.operators.items():
        toolbox.register(ALIASES.get(name, name), operator)
    return toolbox


def _operators(config: Config, given: Mapping[str, Operator]) -> dict[str, Operator]:
    """The operators of the mix."""
    known: dict[str, Operator] = {"self_rip": SelfRip(), "mutate": Mutate(), "cross": Cross(), **given}
    unknown = sorted(set(config.operators.mix) - set(known))
    if unknown:
        raise FittestError(f"operators.mix: unknown operator {unknown[0]!r}; known are {', '.join(sorted(known))}")
    for name in config.operators.mix:
        parents_taken(known[name])
    return {name: known[name] for name in config.operators.mix}


def pool_of(config: Config) -> Pool:
    """The configured pool."""
    return read_pool(
        str(STARTER_POOL) if config.pool.path == "builtin:starter" else config.pool.path,
        prompt_column=config.pool.prompt_column,
        limit=config.pool.limit,
        seed=config.run.seed,
        languages=config.gates.languages,
    )


def backend_of(engine: EngineSection) -> Backend:
    """The engine that a configuration names; nothing is loaded yet.

    Raises:
        FittestError: its model or recording is not there.
    """
    if engine.kind == "null":
        from evo.backends.null import Null

        return Null(slots=engine.slots, latency=engine.latency or 0.0)
    if engine.kind == "replay":
        return _replay(engine)
    if engine.kind == "openai":
        from evo.backends.openai import OpenAI

        return OpenAI(
            base_url=engine.base_url or (),
            model=engine.model or "",
            api_key_env=engine.api_key_env,
            slots=engine.slots,
            timeout=engine.timeout or 600.0,
        )
    if engine.kind == "transformers":
        from evo.backends.transformers import Transformers

        return Transformers(
            model=find_model(engine.model or ""),
            adapter=engine.adapter,
            slots=engine.slots,
            context=engine.context,
            device=engine.device or "auto",
        )
    if engine.kind == "vllm":
        from evo.backends.vllm import Vllm

        sizes = ("tensor_parallel_size", "gpu_memory_utilization", "max_model_len")
        return Vllm(
            model=vllm_model(engine.model or "smollm2-135m"),
            slots=engine.slots,
            adapter=None if engine.adapter is None else Path(engine.adapter),
            engine_args={**(engine.engine_args or {}), **{name: getattr(engine, name) for name in sizes}},
        )
    from evo.backends.llamacpp import LlamaCpp

    model = local_path(engine.model or "smollm2-135m")
    return LlamaCpp(
        model=model,
        slots=engine.slots,
        context=engine.context or 2048,
        threads=engine.threads or 0,
        adapter=None if engine.adapter is None else Path(engine.adapter),
    )


def _replay(engine: EngineSection) -> Backend:
    from evo.backends.replay import Replay, recorded_journal, recorded_responses
    from runs.journal import SqliteJournal
    from runs.responses import Columns, read_responses

    path = Path(engine.path or "")
    if path.suffix == ".sqlite":
        if not path.is_file():
            raise FittestError(f"engine.path: no journal at {path}")
        journal = SqliteJournal(path, read_only=True)
        fingerprint = journal.meta("fingerprint")
        if fingerprint is None:
            raise FittestError(f"engine.path: {path} is not the journal of a run")
        return Replay(recording=recorded_journal(journal, fingerprint), fingerprint=fingerprint, slots=engine.slots)
    columns = Columns(
        prompt=engine.prompt_column or "prompt", response=engine.response_column or "response", rewards={}
    )
    table = read_responses(path, columns)
    return Replay(
        recording=recorded_responses(table.by_prompt()), fingerprint=f"replay:{table.fingerprint}", slots=engine.slots
    )


def _recorded_turns(config: Config) -> list[Turn]:
    """The order of events of the run whose journal is replayed, as far as the same offspring are bred."""
    from runs.journal import SqliteJournal

    path = Path(config.engine.path or "")
    if config.engine.kind != "replay" or path.suffix != ".sqlite":
        return []
    journal = SqliteJournal(path, read_only=True)
    turns = journal.turns()
    journal.close()
    births = config.run.generations * config.operators.offspring
    return [turn for turn in turns if turn.number < births]


def embedder_of(config: Config) -> Embedder:
    """The configured embedder, not loaded yet."""
    name = config.diversity.embedder
    if name == "hash":
        from fitness.embedders.hashing import HashEmbedder

        return HashEmbedder()
    return _minilm(name, config.diversity.device)


def _minilm(name: str, device: str) -> Embedder:
    from fitness.embedders.minilm import MiniLM

    return MiniLM(folder=local_path(name), device=device)


def reward_of(config: Config, backend: Backend, embedder: Embedder) -> Reward:
    """The configured reward, not loaded yet."""
    reward = config.reward
    if reward.kind == "null":
        from fitness.rewards.null import NullReward

        return NullReward()
    if reward.kind == "recorded":
        return _recorded(reward)
    if reward.kind == "judge":
        from fitness.rewards.judge import JudgeReward

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
    from fitness.rewards.head import PreferenceHead

    same = config.diversity.embedder == "minilm"
    return PreferenceHead(embedder=embedder if same else _minilm("minilm", config.diversity.device))


def _pairwise(config: Config, backend: Backend) -> Reward:
    from fitness.rewards.pairwise import PairwiseReward, VotingJudge

    seeds = SeedTree(config.run.seed)
    return PairwiseReward(
        judge=VotingJudge(backend.fingerprint, seeds, votes=config.reward.votes or 1)
        if config.judge.model is None
        else likelihood_judge(config.judge, config.judge.adapter),
        engine=backend.fingerprint,
        seeds=seeds,
        max_tokens=config.engine.sampling.max_tokens,
    )


def likelihood_judge(judge: JudgeSection, adapter: Path | str | None) -> LikelihoodJudge:
    """The judge of a run that is a model in this process."""
    from evo.backends.transformers import Transformers
    from fitness.judge.likelihood import TransformersVerdicts
    from fitness.rewards.pairwise import LikelihoodJudge

    model = find_model(judge.model or "")
    return LikelihoodJudge(TransformersVerdicts(Transformers(model=model, adapter=adapter, device=judge.device)))


def _classifier(reward: RewardSection, device: str) -> Reward:
    if reward.base_url:
        from fitness.rewards.served import ServedReward

        return ServedReward(
            base_url=reward.base_url,
            model=reward.model or "",
            api_key_env=reward.api_key_env,
            slots=reward.slots or 64,
            timeout=reward.timeout or 600.0,
        )
    from fitness.rewards.classifier import ClassifierReward

    return ClassifierReward(
        model=reward.model or "",
        device=device,
        dtype=reward.dtype or "auto",
        batch_tokens=reward.batch_tokens or 0,
        trust_remote_code=reward.trust_remote_code or False,
    )


def _recorded(reward: RewardSection) -> Reward:
    from fitness.rewards.recorded import RecordedReward
    from runs.responses import Columns, read_responses

    columns = Columns(
        prompt=reward.prompt_column or "prompt",
        response=reward.response_column or "response",
        rewards=reward.weights or {reward.column or "reward": 1.0},
    )
    table = read_responses(Path(reward.path or ""), columns)
    return RecordedReward(table.rewards(), fingerprint=columns.reward_id)


def _given_reward(reward: Reward | RewardFunction) -> Reward:
    return cast("Reward", reward) if hasattr(reward, "score") else FunctionReward(reward)


def _gates(config: Config) -> list[Gate]:
    settings = config.gates.model_dump(exclude={"contamination"})
    gates = build_gates(**settings, benchmarks=_benchmarks(config.gates.contamination))
    for gate in gates:
        if isinstance(gate, Language):
            gate.load()
    return gates


def check_device(name: str) -> None:
    """Refuse a device that torch does not have here; "auto" always finds one."""
    if name == "auto":
        return
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise FittestError(f'diversity.device = "{name}": {reason}; "auto" takes what is there') from None


def _digest(path: Path) -> str:
    """16 hex digits over a file; a file that is not there is named by whoever reads it."""
    if not path.is_file():
        return "absent"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _benchmarks(files: Sequence[str]) -> dict[str, list[str]]:
    """Benchmark prompts by file name, which is what a gate's reason shows."""
    names = [Path(file).name for file in files]
    if len(set(names)) < len(names):
        raise FittestError(f"gates.contamination: two files have the same name: {', '.join(sorted(names))}")
    return {name: [prompt.text for prompt in read_pool(file).prompts] for name, file in zip(names, files, strict=True)}
