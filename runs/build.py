"""From a configuration to an evolution: the one place where parts are made and put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from deap import base

from evo.breeding import ALIASES, Breeder, parents_taken
from evo.errors import FittestError
from evo.evolution import Evolution, Settings
from evo.feeder import Budget, Feeder
from evo.gatekeeper import Gatekeeper
from evo.protocols import Backend, Embedder, Gate, Journal, Operator, Reward, ThresholdPolicy
from evo.records import Sampling
from evo.seeds import SeedTree
from fitness.diversity import NeighbourDiversity, vendi_score
from fitness.evaluator import RipEvaluator
from fitness.lengths import LENGTH_UNITS
from fitness.rewards.callable import FunctionReward, RewardFunction
from operators.few_shot import Cross, Mutate, SelfRip
from operators.gates import Language, build_gates
from operators.parsing import parse_candidate
from operators.policies import Absolute, FrozenQuantile, PerGeneration
from operators.rejection import failed_metrics
from operators.trimming import select_by_rank_and_diversity
from runs.pools import STARTER_POOL, Pool, read_pool

if TYPE_CHECKING:
    from runs.config import Config
    from runs.journal import SqliteJournal


@dataclass(frozen=True)
class Parts:
    """What a run is put together from, before anything is loaded or asked."""

    pool: Pool
    backend: Backend
    reward: Reward
    embedder: Embedder
    operators: Mapping[str, Operator]
    gates: Sequence[Gate]

    @property
    def fingerprints(self) -> dict[str, str]:
        """What results depend on, by name: engine, reward, embedder and pool."""
        return {
            "engine": self.backend.fingerprint,
            "reward": self.reward.fingerprint,
            "embedder": self.embedder.fingerprint,
            "pool": self.pool.fingerprint,
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
    location = str(STARTER_POOL) if config.pool.path == "builtin:starter" else config.pool.path
    pool = read_pool(
        location,
        prompt_column=config.pool.prompt_column,
        limit=config.pool.limit,
        seed=config.run.seed,
        languages=config.gates.languages,
    )
    _check_device(config.diversity.device)
    embedder = _embedder(config)
    return Parts(
        pool=pool,
        backend=_backend(config),
        reward=_reward(config, embedder) if reward is None else _given_reward(reward),
        embedder=embedder,
        operators=_operators(config, operators or {}),
        gates=_gates(config),
    )


def assemble(config: Config, parts: Parts, *, journal: Journal, seconds_before: float = 0.0) -> Evolution:
    """Put parts together; `journal` keeps what they produce."""
    seeds = SeedTree(config.run.seed)
    budget = Budget(config.budget.max_tokens, config.budget.max_seconds)
    feeder = Feeder(parts.backend, journal, budget=budget, seconds_before=seconds_before)
    toolbox = _toolbox(config, parts, feeder, journal, seeds)
    proposals = config.operators.sampling
    return Evolution(
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
        policy=_policy(config),
        settings=Settings(
            generations=config.run.generations,
            offspring=config.operators.offspring,
            population=config.run.population,
            metrics=config.selection.metrics,
            offspring_metrics=config.selection.offspring_metrics or config.selection.metrics,
            target_survivors=config.budget.target_survivors,
        ),
    )


def _toolbox(config: Config, parts: Parts, feeder: Feeder, journal: Journal, seeds: SeedTree) -> base.Toolbox:
    """Every step of the loop under a name, each of which a user may register anew."""
    rollouts = config.engine.sampling
    evaluator = RipEvaluator(
        feeder=feeder,
        reward=parts.reward,
        journal=journal,
        seeds=seeds,
        n=rollouts.n,
        sampling=Sampling(rollouts.temperature, rollouts.top_p, rollouts.max_tokens),
        length_unit=LENGTH_UNITS[config.selection.length_unit],
    )
    toolbox = base.Toolbox()
    toolbox.register("evaluate", evaluator)
    toolbox.register("select", select_by_rank_and_diversity)
    toolbox.register("reject", failed_metrics)
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


def _backend(config: Config) -> Backend:
    engine = config.engine
    if engine.kind == "null":
        from evo.backends.null import Null

        return Null(slots=engine.slots, latency=engine.latency or 0.0)
    if engine.kind == "replay":
        return _replay(config)
    from evo.backends.llamacpp import LlamaCpp
    from runs.models import local_path

    model = local_path(engine.model or "smollm2-135m")
    return LlamaCpp(model=model, slots=engine.slots, context=engine.context or 2048, threads=engine.threads or 0)


def _replay(config: Config) -> Backend:
    from evo.backends.replay import Replay, recorded_journal, recorded_responses
    from runs.journal import SqliteJournal
    from runs.responses import Columns, read_responses

    engine = config.engine
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
        prompt=engine.prompt_column or "prompt", response=engine.response_column or "response", reward=None
    )
    table = read_responses(path, columns)
    return Replay(
        recording=recorded_responses(table.by_prompt()), fingerprint=f"replay:{table.fingerprint}", slots=engine.slots
    )


def _embedder(config: Config) -> Embedder:
    name = config.diversity.embedder
    if name == "hash":
        from fitness.embedders.hashing import HashEmbedder

        return HashEmbedder()
    return _minilm(name, config.diversity.device)


def _minilm(name: str, device: str) -> Embedder:
    from fitness.embedders.minilm import MiniLM
    from runs.models import local_path

    return MiniLM(folder=local_path(name), device=device)


def _reward(config: Config, embedder: Embedder) -> Reward:
    if config.reward.kind == "null":
        from fitness.rewards.null import NullReward

        return NullReward()
    from fitness.rewards.head import PreferenceHead

    same = config.diversity.embedder == "minilm"
    return PreferenceHead(embedder=embedder if same else _minilm("minilm", config.diversity.device))


def _given_reward(reward: Reward | RewardFunction) -> Reward:
    return cast("Reward", reward) if hasattr(reward, "score") else FunctionReward(reward)


def _policy(config: Config) -> ThresholdPolicy:
    selection = config.selection
    if selection.policy == "absolute":
        return Absolute(min_reward=selection.min_reward, min_length=selection.min_length, max_gap=selection.max_gap)
    if selection.policy == "per-generation":
        return PerGeneration(quantile=selection.quantile)
    return FrozenQuantile(quantile=selection.quantile)


def _gates(config: Config) -> list[Gate]:
    settings = config.gates.model_dump(exclude={"contamination"})
    gates = build_gates(**settings, benchmarks=_benchmarks(config.gates.contamination))
    for gate in gates:
        if isinstance(gate, Language):
            gate.load()
    return gates


def _check_device(name: str) -> None:
    """Refuse a device that torch does not have here; "auto" always finds one."""
    if name == "auto":
        return
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise FittestError(f'diversity.device = "{name}": {reason}; "auto" takes what is there') from None


def _benchmarks(files: Sequence[str]) -> dict[str, list[str]]:
    """Benchmark prompts by file name, which is what a gate's reason shows."""
    names = [Path(file).name for file in files]
    if len(set(names)) < len(names):
        raise FittestError(f"gates.contamination: two files have the same name: {', '.join(sorted(names))}")
    return {name: [prompt.text for prompt in read_pool(file).prompts] for name, file in zip(names, files, strict=True)}
