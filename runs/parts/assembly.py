"""From a configuration to an evolution: makes the parts that it names, and puts them together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from deap import base

from fittest.evo.breeding import ALIASES, Breeder, parents_taken
from fittest.evo.engines import Engines
from fittest.evo.errors import FittestError
from fittest.evo.evolution import Evolution
from fittest.evo.feeder import Feeder
from fittest.evo.gatekeeper import Gatekeeper, complete
from fittest.evo.ordering import MilestoneOrder
from fittest.evo.pretrained.fingerprints import file_digest
from fittest.evo.prompt import Prompt
from fittest.evo.protocols import (
    Ask,
    AsksEngine,
    CanBeTried,
    Embedder,
    Gate,
    Journal,
    KeepsInJournal,
    Operator,
    Reward,
)
from fittest.evo.records import Form, FreshDraw, Sampling, Thresholds
from fittest.evo.seeds import SeedTree
from fittest.evo.shares import SHARES
from fittest.evo.spending import Budget
from fittest.evo.state import Settings
from fittest.evo.steady_state import SteadyState
from fittest.fitness.audit import AuditedEvaluator, as_audit
from fittest.fitness.diversity import EqualSizeVendi, NeighbourDiversity, vendi_score
from fittest.fitness.evaluator import RipEvaluator
from fittest.fitness.lengths import length_unit
from fittest.fitness.pairing import BEST_WORST, parse_pairing
from fittest.fitness.racing import RaceTrack
from fittest.fitness.rewards.callable import RewardFunction
from fittest.operators.gates import Language, build_gates
from fittest.operators.parsing import parse_candidate
from fittest.operators.rejection import failed_metrics, outranked
from fittest.operators.trimming import select_by_rank_and_diversity
from fittest.runs.config.gates import GATES
from fittest.runs.config.operators import OPERATORS
from fittest.runs.models import find_model
from fittest.runs.parts.cells import cells_of
from fittest.runs.parts.engines import engines_of, recorded_milestones
from fittest.runs.parts.packages import check_packages
from fittest.runs.parts.rewards import audit_of, embedder_of, given_reward, reward_of
from fittest.runs.parts.selection import Selection, selection_of
from fittest.runs.parts.stock import merit_of, picks_by_merit, stock_of
from fittest.runs.sources.pool import STARTER_POOL, Pool, read_pool

if TYPE_CHECKING:
    from fittest.evo.confirmation import OnDrawn
    from fittest.evo.evolution import BeforeGeneration, OnEvaluated, OnGeneration
    from fittest.evo.merit import Merit
    from fittest.evo.retest import OnRetested
    from fittest.runs.config import Config
    from fittest.runs.output.journal import SqliteJournal


@dataclass(frozen=True)
class Parts:
    """Holds what a run is put together from, before anything is loaded or asked."""

    pool: Pool
    engines: Engines
    reward: Reward
    audit: Reward | None
    embedder: Embedder
    operators: Mapping[str, Operator]
    gates: Sequence[Gate]
    selection: Selection
    files: Mapping[str, str]

    @property
    def fingerprints(self) -> dict[str, str]:
        """Returns what results depend on: engines, reward, embedder, pool, and files that the configuration names."""
        names = {"policy": "engine", "proposer": "proposer", "judge": "reward.engine", "auditor": "audit.engine"}
        return {
            **{names[role]: engine.backend.fingerprint for role, engine in self.engines.by_role.items()},
            "reward": self.reward.fingerprint,
            **({} if self.audit is None else {"audit": self.audit.fingerprint}),
            "embedder": self.embedder.fingerprint,
            "pool": self.pool.fingerprint,
            **self.files,
        }


def build(
    config: Config,
    *,
    journal: SqliteJournal,
    reward: Reward | RewardFunction | None = None,
    audit: Reward | RewardFunction | None = None,
    operators: Mapping[str, Operator] | None = None,
) -> Evolution:
    """Returns an evolution as configured.

    Args:
        config: the whole configuration.
        journal: keeps what the parts produce.
        reward: replaces the configured one.
        audit: replaces the configured reward that decides nothing.
        operators: more operators by the name that they have in `operators.mix`.

    Raises:
        FittestError: the pool or a model is not there, or an operator of the mix is not known.
    """
    return assemble(config, parts_of(config, reward=reward, audit=audit, operators=operators), journal=journal)


def parts_of(
    config: Config,
    *,
    reward: Reward | RewardFunction | None = None,
    audit: Reward | RewardFunction | None = None,
    operators: Mapping[str, Operator] | None = None,
) -> Parts:
    """Makes the parts that a configuration names; nothing is loaded yet, but everything is known to be there."""
    check_packages(config, own=[name for name, own in (("reward", reward), ("audit", audit)) if own is not None])
    pool = pool_of(config)
    check_device(config.diversity.device)
    engines, embedder = engines_of(config), embedder_of(config)
    own_reward = reward_of(config, engines, embedder) if reward is None else given_reward(reward)
    auditing = audit_of(config, engines, embedder) if audit is None else given_reward(audit)
    if auditing is not None and auditing.fingerprint == own_reward.fingerprint:
        raise FittestError(
            f"audit and reward are both {auditing.fingerprint}, under which a reward is kept once; an audit needs"
            " another one (a function of the same name needs a name of its own: FunctionReward(f, name=…))"
        )
    made, gates = _operators(config, operators or {}), _gates(config)
    selection = selection_of(config, reward_id=own_reward.fingerprint, pool_size=len(pool.prompts))
    files = {
        f"{table}.{key}": _digest(Path(path))
        for table, section in config.rewards.items()
        for key, path in section.files.items()
    }
    return Parts(
        pool=pool,
        engines=engines if auditing is None else engines.audited(),
        reward=own_reward,
        audit=auditing,
        embedder=embedder,
        operators=made,
        gates=gates,
        selection=selection,
        files={**files, **selection.files},
    )


def assemble(
    config: Config,
    parts: Parts,
    *,
    journal: Journal,
    form: Form = "completion",
    seconds_before: float = 0.0,
    customise: Callable[[base.Toolbox], None] | None = None,
    before_generation: BeforeGeneration | None = None,
    on_evaluated: OnEvaluated | None = None,
    on_drawn: OnDrawn | None = None,
    on_retested: OnRetested | None = None,
    on_generation: OnGeneration | None = None,
) -> Evolution:
    """Puts parts together.

    Args:
        config: the whole configuration.
        parts: those that it names.
        journal: keeps what they produce.
        form: the form in which proposals are asked for.
        seconds_before: wall time that earlier sessions of the same run took.
        customise: registers what it likes in the toolbox.
        before_generation: awaited before each generation of offspring.
        on_evaluated: called with each prompt that has been evaluated.
        on_drawn: called with each prompt and each fresh draw of it.
        on_retested: called with each survivor that is drawn again at the end.
        on_generation: called with each finished generation.

    Raises:
        FittestError: the judge is to be trained, and an evaluate of the user's own would not see it.
    """
    seeds = SeedTree(config.run.seed)
    caps = config.budget.model_dump(exclude={"target_survivors"})
    feeder = Feeder(
        parts.engines,
        journal,
        budget=Budget(**caps, prices=config.price_list),
        seconds_before=seconds_before,
    )
    asking: list[tuple[object, Ask]] = [(parts.reward, feeder.ask_all), (parts.audit, as_audit(feeder.ask_all))]
    for reward, ask in asking:
        if isinstance(reward, AsksEngine):
            reward.connect(ask)
        if isinstance(reward, KeepsInJournal):
            reward.keep_in(journal)
    merit = merit_of(parts.selection.settings)
    toolbox = _toolbox(config, parts, merit)
    gatekeeper = Gatekeeper(parts.gates, embedder=parts.embedder, journal=journal)
    cells = cells_of(
        config, toolbox=toolbox, archive=gatekeeper.archive, merit=merit, ask=feeder.ask_all, journal=journal
    )
    evaluator = _evaluator(config, parts, toolbox, feeder, journal, seeds)
    settings, notes = _customised(config, parts, toolbox, evaluator, customise)
    proposals = config.operators.sampling
    asked: list[object] = [*(lane.backend for lane in feeder.lanes), parts.reward, parts.audit]
    loop: Callable[..., Evolution] = Evolution
    if config.run.mode == "steady-state":
        loop = partial(SteadyState, order=MilestoneOrder(journal, recorded_milestones(config)))
    return loop(
        pool=parts.pool.prompts,
        toolbox=toolbox,
        feeder=feeder,
        gatekeeper=gatekeeper,
        breeder=Breeder(
            toolbox=toolbox,
            feeder=feeder,
            seeds=seeds,
            shares=SHARES[config.operators.adapt](config.operators.mix),
            shots=config.operators.shots,
            sampling=Sampling(proposals.temperature, proposals.top_p, proposals.max_tokens),
            form=form,
        ),
        policy=parts.selection.policy,
        settings=settings,
        before_generation=before_generation,
        on_evaluated=on_evaluated,
        on_drawn=on_drawn,
        on_retested=on_retested,
        on_generation=on_generation,
        notes=notes,
        cells=cells,
        servers=[part for part in asked if isinstance(part, CanBeTried)],
    )


def _evaluator(
    config: Config, parts: Parts, toolbox: base.Toolbox, feeder: Feeder, journal: Journal, seeds: SeedTree
) -> RipEvaluator:
    rollouts = config.engine.sampling
    return RipEvaluator(
        feeder=feeder,
        reward=parts.reward,
        journal=journal,
        seeds=seeds,
        n=rollouts.n,
        sampling=Sampling(rollouts.temperature, rollouts.top_p, rollouts.max_tokens),
        length_unit=length_unit(config.selection.length_unit, find_model),
        length_cap=config.selection.length_cap,
        pairing=parse_pairing(config.selection.pairing),
        track=_race_track(config, parts.selection, toolbox, seeds),
        halves=picks_by_merit(config),
    )


def _race_track(config: Config, selection: Selection, toolbox: base.Toolbox, seeds: SeedTree) -> RaceTrack | None:
    """Returns the rules of all races; there are none while a user's own `reject` decides who survives."""
    section = config.selection
    if selection.by_rank or section.pairing != BEST_WORST.name:
        return None

    def known(generation: int) -> Thresholds | None:
        return selection.policy.known(generation) if selection.raced and _rejects_by_cuts(toolbox) else None

    return RaceTrack(
        n=config.engine.sampling.n,
        round_size=section.race_round,
        known=known,
        metrics=selection.settings.metrics_of,
        confidence=section.race_confidence,
        audit=section.race_audit,
        seeds=seeds,
    )


def _customised(
    config: Config,
    parts: Parts,
    toolbox: base.Toolbox,
    evaluator: RipEvaluator,
    customise: Callable[[base.Toolbox], None] | None,
) -> tuple[Settings, list[str]]:
    """Registers the evaluation, lets the user change the toolbox, and returns settings and what to tell of it."""
    settings = parts.selection.settings
    audited = None if parts.audit is None else AuditedEvaluator(evaluator, evaluator.by(parts.audit))
    toolbox.register("evaluate", audited or evaluator)
    toolbox.register("rejudge", evaluator.rejudge)
    toolbox.register("fresh_draw", _fresh_draws(evaluator, toolbox))
    toolbox.register("answers", evaluator.best_and_worst)
    own = toolbox.evaluate
    if customise is not None:
        customise(toolbox)
    if toolbox.evaluate is not own:
        if config.judge.retrain_every:
            raise FittestError("judge.retrain_every needs the run's own evaluate and reward")
        unaudited = [] if parts.audit is None else ["there is no audit: toolbox.evaluate is not the run's own"]
        return replace(settings, confirm=0, retest=0.0), [*_unconfirmed(settings), *unaudited]
    if parts.selection.raced and not _rejects_by_cuts(toolbox):
        return settings, ["racing is off: toolbox.reject is not the rule that racing knows"]
    return settings, []


def _unconfirmed(settings: Settings) -> list[str]:
    return ["confirmation is off: toolbox.evaluate is not the run's own"] if settings.confirm else []


def _fresh_draws(evaluator: RipEvaluator, toolbox: base.Toolbox) -> Callable[..., Awaitable[FreshDraw]]:
    """Returns what draws a prompt again; a user's own `reject` may keep what fails cuts, so it sees whole draws."""

    async def fresh_draw(prompt: Prompt, number: int, cuts: Thresholds | None) -> FreshDraw:
        return await evaluator.draw(prompt, number, cuts if _rejects_by_cuts(toolbox) else None)

    return fresh_draw


def _rejects_by_cuts(toolbox: base.Toolbox) -> bool:
    """Tells whether prompts survive by cuts alone; a user's own rule may keep what these would not."""
    return getattr(toolbox.reject, "func", None) is failed_metrics


def _toolbox(config: Config, parts: Parts, merit: Merit) -> base.Toolbox:
    """Registers every step of the loop but evaluation under a name, by which a user may replace it."""
    toolbox = base.Toolbox()
    toolbox.register("select", select_by_rank_and_diversity)
    toolbox.register("stock", stock_of(config, merit))
    toolbox.register("reject", outranked if parts.selection.by_rank else failed_metrics)
    toolbox.register("parse", parse_candidate)
    toolbox.register(
        "diversity", NeighbourDiversity(neighbours=config.diversity.neighbours, device=config.diversity.device)
    )
    toolbox.register("vendi", vendi_score)
    toolbox.register("breadth", EqualSizeVendi(SeedTree(config.run.seed)))
    for name, operator in parts.operators.items():
        toolbox.register(ALIASES.get(name, name), operator)
    return toolbox


def _operators(config: Config, given: Mapping[str, Operator]) -> dict[str, Operator]:
    """Returns the operators of the mix: the caller's own before those that fittest or a plug-in brings."""
    found: dict[str, Operator] = {}
    for name in config.operators.mix:
        if name in given:
            found[name] = given[name]
        elif name in OPERATORS:
            found[name] = OPERATORS.make(name, config.operators.tables.get(name))
        else:
            raise FittestError(f"operators.mix: {OPERATORS.unknown(name, given)}")
        try:
            parents_taken(found[name])
        except FittestError as error:
            raise FittestError(f"operators.mix: {name!r}: {error}") from None
    return found


def pool_of(config: Config) -> Pool:
    """Returns the configured pool."""
    return read_pool(
        str(STARTER_POOL) if config.pool.path == "builtin:starter" else config.pool.path,
        prompt_column=config.pool.prompt_column,
        limit=config.pool.limit,
        seed=config.run.seed,
        languages=config.gates.languages,
    )


def _gates(config: Config) -> list[Gate]:
    """Returns the gates in the order in which they are asked: cheap before costly, and those in slot order last."""
    settings = config.gates.model_dump(exclude={"contamination", *config.gates.tables})
    gates = build_gates(**settings, benchmarks=_benchmarks(config.gates.contamination))
    # the tables' own order is not kept when a run goes on with overrides, so it decides nothing
    for name, section in sorted(config.gates.tables.items()):
        gate: Gate = complete(GATES.make(name, section), name)
        first_ordered = next(place for place, other in enumerate(gates) if other.ordered)
        gates.insert(len(gates) if gate.ordered else first_ordered, gate)
    for gate in gates:
        if isinstance(gate, Language):
            gate.load()
    return gates


def check_device(name: str) -> None:
    """Refuses a device that torch does not have here; "auto" always finds one."""
    if name == "auto":
        return
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise FittestError(f'diversity.device = "{name}": {reason}; "auto" takes what is there') from None


def _digest(path: Path) -> str:
    """Returns 16 hex digits over a file; a file that is not there is named by whoever reads it."""
    return file_digest(path)[:16] if path.is_file() else "absent"


def _benchmarks(files: Sequence[str]) -> dict[str, list[str]]:
    """Benchmark prompts by file name, which is what a gate's reason shows."""
    names = [Path(file).name for file in files]
    if len(set(names)) < len(names):
        raise FittestError(f"gates.contamination: two files have the same name: {', '.join(sorted(names))}")
    return {name: [prompt.text for prompt in read_pool(file).prompts] for name, file in zip(names, files, strict=True)}
