"""The configuration of a run: what may stand in run.toml, checked before anything is spent."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from evo.arms import ArmName
from evo.errors import FittestError
from evo.records import METRICS, RIP_METRICS, MetricName, Range
from evo.spending import Prices
from fitness.lengths import check_length_unit
from fitness.pairing import parse_pairing


class Section(BaseModel):
    """A table of run.toml; an unknown key is an error, since a misspelt one would be silently ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Checked = TypeVar("Checked", bound=Section)


class RunSection(Section):
    """[run]."""

    seed: int = Field(default=7, ge=0)
    generations: int = Field(default=3, ge=0)
    population: int = Field(default=1000, ge=0)
    mode: Literal["generational", "steady-state"] = "generational"
    arm: ArmName = "evolution"


class PoolSection(Section):
    """[pool]."""

    path: str
    prompt_column: str | None = None
    limit: int = Field(default=0, ge=0)


class RolloutSampling(Section):
    """[engine.sampling]."""

    n: int = Field(default=8, ge=2)
    temperature: float = Field(default=0.8, ge=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_tokens: int = Field(default=256, ge=1)


KEYS_OF_VLLM_ARGUMENTS = {
    "model": "engine.model",
    "max_num_seqs": "engine.slots",
    "tensor_parallel_size": "engine.tensor_parallel_size",
    "gpu_memory_utilization": "engine.gpu_memory_utilization",
    "max_model_len": "engine.max_model_len",
    "enable_lora": "engine.adapter",
}
"""Arguments of vLLM that have a key of their own."""

SECRET = re.compile(
    r"((^|[_-])(key|password|passwd|secret|credentials?)|(^|(hf|hub|auth|access|api|bearer|session)[_-])token)$", re.I
)
"""Names of what nobody else may read; `pad_token` and `max_num_batched_tokens` are others."""


class EngineSection(Section):
    """[engine]; keys that a kind does not use must be absent."""

    kind: Literal["llamacpp", "vllm", "openai", "transformers", "null", "replay"] = "llamacpp"
    slots: int = Field(default=16, ge=1)
    model: str | None = None
    context: int | None = Field(default=None, ge=64)
    threads: int | None = Field(default=None, ge=0)
    base_url: tuple[str, ...] | None = None
    api_key_env: str | None = None
    timeout: float | None = Field(default=None, gt=0)
    samples_per_request: int | None = Field(default=None, ge=1)
    adapter: str | None = None
    device: str | None = None
    tensor_parallel_size: int | None = Field(default=None, ge=1)
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    max_model_len: int | None = Field(default=None, ge=1)
    engine_args: dict[str, Any] | None = None
    latency: float | None = Field(default=None, ge=0)
    path: str | None = None
    prompt_column: str | None = None
    response_column: str | None = None
    sampling: RolloutSampling = RolloutSampling()

    @model_validator(mode="after")
    def _only_its_own_keys(self) -> Self:
        keys_of_kind = {
            "llamacpp": {"model", "adapter", "context", "threads"},
            "openai": {"model", "base_url", "api_key_env", "timeout", "samples_per_request"},
            "transformers": {"model", "adapter", "context", "device"},
            "vllm": {
                "model",
                "tensor_parallel_size",
                "gpu_memory_utilization",
                "max_model_len",
                "adapter",
                "engine_args",
                "samples_per_request",
            },
            "null": {"latency", "model"},
            "replay": {"path", "prompt_column", "response_column", "model"},
        }
        given = {name for name in self.model_fields_set if getattr(self, name) is not None}
        foreign = given - keys_of_kind[self.kind] - {"kind", "slots", "sampling"}
        if foreign:
            raise ValueError(f'engine kind "{self.kind}" does not take {", ".join(sorted(foreign))}')
        if self.kind == "replay" and self.path is None:
            raise ValueError('engine kind "replay" needs path: a table of responses, or a journal.sqlite')
        if self.kind == "openai" and not (self.model and self.base_url):
            raise ValueError(
                'engine kind "openai" needs model, the name that the server knows it by, and base_url, such as'
                ' "http://localhost:8000/v1"'
            )
        if self.kind == "transformers" and not self.model:
            raise ValueError('engine kind "transformers" needs model: a folder, a .gguf file or a Hugging Face name')
        for name in self.engine_args or {}:
            if name in KEYS_OF_VLLM_ARGUMENTS:
                raise ValueError(f"engine_args.{name} is set by {KEYS_OF_VLLM_ARGUMENTS[name]}")
        if secret := next(secrets_among(self.engine_args or {}), None):
            raise ValueError(
                f"engine_args.{secret} would be written to run.toml; put what is secret into the environment instead,"
                " a Hugging Face token as HF_TOKEN"
            )
        check_servers(self.base_url or (), self.api_key_env)
        return self

    @field_validator("base_url", mode="before")
    @classmethod
    def _one_or_several(cls, given: object) -> object:
        return (given,) if isinstance(given, str) else given


def secrets_among(arguments: Mapping[str, Any]) -> Iterator[str]:
    """The dotted names of arguments that hold a secret by their name, however deep."""
    for name, value in arguments.items():
        if SECRET.search(name):
            yield name
        elif isinstance(value, Mapping):
            yield from (f"{name}.{inner}" for inner in secrets_among(value))


def check_servers(base_url: Sequence[str], api_key_env: str | None) -> None:
    """Check the keys of a section that say where servers are, and who asks them.

    Raises:
        ValueError: says what is wrong; a key that was written here by mistake is not shown, lest it end in a log.
    """
    if api_key_env is not None and not re.fullmatch(r"[A-Za-z_]\w*", api_key_env, re.ASCII):
        raise ValueError("api_key_env must be the name of the environment variable that holds the key")
    urls = [url.rstrip("/") for url in base_url]
    for url in urls:
        check_url(url)
    if len(set(urls)) < len(urls):
        raise ValueError("base_url names a server twice")


def check_url(url: str) -> None:
    """Check that requests can be sent to a URL, and that nothing secret is in it, since run.toml shows it.

    Raises:
        ValueError: says what is wrong; a URL that may hold a key is not shown.
    """
    parts = urlsplit(url)
    # without its scheme, a URL with a password has no netloc
    if "@" in parts.netloc or "@" in url.split("/")[0] or parts.query or parts.fragment:
        raise ValueError(
            "base_url must hold no key, password or query; put the key into an environment variable and name it in"
            " api_key_env"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or any(letter.isspace() for letter in url):
        raise ValueError(f'base_url "{url}" is no address of a server, such as "http://localhost:8000/v1"')
    if parts.path.rstrip("/").endswith("/completions"):
        raise ValueError(f'base_url "{url}" must end before /chat/completions, as a rule in /v1')


LOADED = frozenset({"trust_remote_code", "dtype", "batch_tokens"})
SERVED = frozenset({"base_url", "api_key_env", "slots", "timeout"})
"""What a classifier takes when it is loaded here, and when servers have it."""


class RewardSection(Section):
    """[reward]; keys that a kind does not use must be absent."""

    kind: Literal["head", "null", "recorded", "judge", "pairwise", "classifier"] = "head"
    path: str | None = None
    prompt_column: str | None = None
    response_column: str | None = None
    column: str | None = None
    weights: dict[str, float] | None = None
    model: str | None = None
    trust_remote_code: bool | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    batch_tokens: int | None = Field(default=None, ge=0)
    base_url: tuple[str, ...] | None = None
    api_key_env: str | None = None
    slots: int | None = Field(default=None, ge=1)
    timeout: float | None = Field(default=None, gt=0)
    scale: int | None = Field(default=None, ge=1)
    votes: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _only_its_own_keys(self) -> Self:
        keys_of_kind = {
            "head": set[str](),
            "null": set[str](),
            "recorded": {"path", "prompt_column", "response_column", "column", "weights"},
            "judge": {"scale", "votes"},
            "pairwise": {"votes"},
            "classifier": {"model"} | (SERVED if self.base_url else LOADED | {"base_url"}),
        }
        given = {name for name in self.model_fields_set if getattr(self, name) is not None}
        foreign = given - keys_of_kind[self.kind] - {"kind"}
        if foreign:
            where = "" if self.kind != "classifier" else " with base_url" if self.base_url else " without base_url"
            raise ValueError(f'reward kind "{self.kind}"{where} does not take {", ".join(sorted(foreign))}')
        if self.kind == "recorded" and self.path is None:
            raise ValueError('reward kind "recorded" needs path: a table with one row per response')
        if self.kind == "recorded" and self.column is not None and self.weights is not None:
            raise ValueError("give column, or weights of several columns, not both")
        if self.kind == "classifier" and self.model is None:
            raise ValueError(
                'reward kind "classifier" needs model: a Hugging Face name or a folder, or with base_url the name that'
                " the server knows it by"
            )
        check_servers(self.base_url or (), self.api_key_env)
        return self

    @field_validator("base_url", mode="before")
    @classmethod
    def _one_or_several(cls, given: object) -> object:
        return (given,) if isinstance(given, str) else given


class JudgeSection(Section):
    """[judge]: who compares answers for reward kind "pairwise", and when it is trained."""

    model: str | None = None
    adapter: str | None = None
    device: str = "auto"
    retrain_every: int = Field(default=0, ge=0)
    rewards: Literal["recompute", "keep"] = "recompute"
    instructions: int = Field(default=40, ge=2)
    samples: int = Field(default=15, ge=1)
    max_tokens: int = Field(default=64, ge=1)
    iterations: int = Field(default=1, ge=1)
    epochs: int = Field(default=2, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)

    @model_validator(mode="after")
    def _only_a_model_can_be_trained(self) -> Self:
        if self.model is None and (self.adapter is not None or self.retrain_every):
            raise ValueError("adapter and retrain_every need model: a folder, a .gguf file or a Hugging Face name")
        return self


class SelectionSection(Section):
    """[selection]."""

    policy: Literal["quantile", "per-generation", "annealed", "absolute", "pareto"] = "quantile"
    quantile: float = Field(default=0.5, ge=0, lt=1)
    final_quantile: float | None = Field(default=None, ge=0, lt=1)
    metrics: tuple[MetricName, ...] = Field(default=RIP_METRICS, min_length=1)
    offspring_metrics: tuple[MetricName, ...] | None = Field(default=None, min_length=1)
    percentiles: dict[MetricName, tuple[float, float]] = {}
    pairing: str = "best-worst"
    length_unit: str = "chars"
    pilot: float = Field(default=0, ge=0, lt=1)
    race_round: int = Field(default=2, ge=0)
    race_confidence: float | None = Field(default=None, gt=0.5, lt=1)
    race_audit: float = Field(default=0.1, ge=0, le=1)
    thresholds: str | None = None
    min_reward: float | None = None
    min_length: float | None = None
    max_gap: float | None = None
    at_least: dict[MetricName, float] = {}
    at_most: dict[MetricName, float] = {}

    @field_validator("pairing")
    @classmethod
    def _known_pairing(cls, name: str) -> str:
        return _or_value_error(lambda: parse_pairing(name).name)

    @field_validator("length_unit")
    @classmethod
    def _known_unit(cls, name: str) -> str:
        return _or_value_error(lambda: check_length_unit(name))

    @field_validator("percentiles")
    @classmethod
    def _ranges(cls, ranges: dict[MetricName, tuple[float, float]]) -> dict[MetricName, tuple[float, float]]:
        for name, (low, high) in ranges.items():
            percentile_range(name, low, high)
        return ranges

    @model_validator(mode="after")
    def _keys_belong_to_the_policy(self) -> Self:
        cuts = (self.min_reward, self.min_length, self.max_gap)
        if self.policy == "absolute":
            if not (any(cut is not None for cut in cuts) or self.thresholds or self.at_least or self.at_most):
                raise ValueError('policy "absolute" needs min_reward, min_length or max_gap, or thresholds')
        elif cuts != (None, None, None) or self.thresholds:
            raise ValueError(
                f'min_reward, min_length, max_gap and thresholds need policy "absolute", not "{self.policy}"'
            )
        if (self.policy == "annealed") != (self.final_quantile is not None):
            raise ValueError('final_quantile goes with policy "annealed": the level that the last generation reaches')
        if self.percentiles and self.policy not in ("quantile", "per-generation"):
            raise ValueError(f'percentiles need policy "quantile" or "per-generation", not "{self.policy}"')
        if set(self.percentiles) - {*self.metrics, *(self.offspring_metrics or ())}:
            raise ValueError("percentiles names a metric that is not in metrics")
        if self.race_confidence is not None and not self.race_round:
            raise ValueError("race_confidence needs racing: race_round is 0")
        if self.pilot and self.policy not in ("quantile", "annealed"):
            raise ValueError(f'pilot needs policy "quantile" or "annealed", not "{self.policy}"')
        return self

    @property
    def bounds(self) -> dict[MetricName, Range]:
        """Ranges that hold beside every policy."""
        return ranges_of(self.at_least, self.at_most)

    @property
    def absolute_cuts(self) -> dict[MetricName, Range]:
        """min_reward, min_length and max_gap."""
        return ranges_of({"m1": self.min_reward, "m2": self.min_length}, {"m3": self.max_gap})


def _or_value_error(check: Callable[[], str]) -> str:
    """A check of another package in the terms of pydantic, which then names the key."""
    try:
        return check()
    except FittestError as error:
        raise ValueError(str(error)) from None


def ranges_of(
    lows: Mapping[MetricName, float | None], highs: Mapping[MetricName, float | None]
) -> dict[MetricName, Range]:
    """Ranges from their ends, of the metrics that have one."""
    both = {name: Range(lows.get(name), highs.get(name)) for name in METRICS}
    return {name: ends for name, ends in both.items() if ends != Range()}


def percentile_range(name: str, low: float, high: float) -> Range:
    """A surviving percentile range such as 60–100 as levels in [0, 1]; 0 and 100 do not cut.

    Raises:
        ValueError: the ends are not in order, or not percentiles.
    """
    if not 0 <= low < high <= 100:
        raise ValueError(f"percentiles of {name}: {low:g} to {high:g} is no range within 0 to 100")
    return Range(low / 100 if low > 0 else None, high / 100 if high < 100 else None)


class OperatorSampling(Section):
    """[operators.sampling]."""

    temperature: float = Field(default=0.8, ge=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_tokens: int = Field(default=160, ge=1)


class OperatorsSection(Section):
    """[operators]."""

    shots: int = Field(default=8, ge=1)
    offspring: int = Field(default=256, ge=1)
    mix: dict[str, float] = {"self_rip": 0.5, "mutate": 0.3, "cross": 0.2}
    sampling: OperatorSampling = OperatorSampling()

    @model_validator(mode="after")
    def _positive_weights(self) -> Self:
        if not all(0 <= weight < math.inf for weight in self.mix.values()) or sum(self.mix.values()) <= 0:
            raise ValueError("mix needs weights that are not negative, at least one of them positive")
        return self


class GatesSection(Section):
    """[gates]."""

    min_chars: int = Field(default=10, ge=0)
    max_chars: int = Field(default=4000, ge=1)
    languages: tuple[str, ...] = ("en",)
    keywords: tuple[str, ...] = ("image", "picture", "graph")
    rouge_l: float = Field(default=0.7, gt=0, le=1)
    novelty: float = Field(default=0.05, ge=0, le=2)
    contamination: tuple[str, ...] = ()

    @field_validator("keywords")
    @classmethod
    def _words(cls, keywords: tuple[str, ...]) -> tuple[str, ...]:
        if not all(any(letter.isalnum() for letter in keyword) for keyword in keywords):
            raise ValueError("a keyword needs a letter or digit; an empty list turns the gate off")
        return keywords

    @model_validator(mode="after")
    def _room_for_a_prompt(self) -> Self:
        if self.min_chars > self.max_chars:
            raise ValueError(f"min_chars = {self.min_chars} is more than max_chars = {self.max_chars}")
        return self


class DiversitySection(Section):
    """[diversity]."""

    embedder: str = "minilm"
    neighbours: int = Field(default=10, ge=1)
    device: str = "auto"


class PricesSection(Section):
    """[prices]; in one currency, for a million tokens and for an hour of the engine."""

    prompt_tokens: float = Field(default=0, ge=0)
    cached_tokens: float | None = Field(default=None, ge=0)
    completion_tokens: float = Field(default=0, ge=0)
    engine_hour: float = Field(default=0, ge=0)

    @property
    def table(self) -> Prices:
        """The prices as the engine's books take them."""
        return Prices(**self.model_dump())


class BudgetSection(Section):
    """[budget]; 0 is no limit."""

    max_tokens: int = Field(default=0, ge=0)
    max_seconds: float = Field(default=0, ge=0)
    max_requests: int = Field(default=0, ge=0)
    max_cost: float = Field(default=0, ge=0)
    target_survivors: int = Field(default=0, ge=0)


class Config(Section):
    """All of run.toml."""

    run: RunSection = RunSection()
    pool: PoolSection
    engine: EngineSection = EngineSection()
    reward: RewardSection = RewardSection()
    judge: JudgeSection = JudgeSection()
    selection: SelectionSection = SelectionSection()
    operators: OperatorsSection = OperatorsSection()
    gates: GatesSection = GatesSection()
    diversity: DiversitySection = DiversitySection()
    prices: PricesSection = PricesSection()
    budget: BudgetSection = BudgetSection()

    @model_validator(mode="after")
    def _cost_needs_prices(self) -> Self:
        if self.budget.max_cost and not self.prices.table.known:
            raise ValueError("budget.max_cost needs [prices]: prompt_tokens and completion_tokens, or engine_hour")
        return self

    @model_validator(mode="after")
    def _cuts_known_where_they_have_to_be(self) -> Self:
        selects = f'policy "{self.selection.policy}"' if self.run.arm != "best-of-n" else 'arm "best-of-n"'
        within_generation = self.run.arm == "best-of-n" or self.selection.policy in ("per-generation", "pareto")
        if self.run.mode == "steady-state" and within_generation:
            raise ValueError(
                f'run.mode "steady-state" has no finished generation to compare within, as {selects} does; take policy'
                ' "quantile", "annealed" or "absolute"'
            )
        if self.judge.retrain_every and within_generation:
            raise ValueError(
                f"judge.retrain_every needs cuts that can be fitted to the pool again; {selects} has none; take policy"
                ' "quantile", "annealed" or "absolute"'
            )
        return self

    @model_validator(mode="after")
    def _judge_is_asked(self) -> Self:
        if self.judge != JudgeSection() and self.reward.kind != "pairwise":
            raise ValueError(f'[judge] is for reward kind "pairwise", not "{self.reward.kind}"')
        if self.judge.model is not None and self.reward.votes is not None:
            raise ValueError("reward.votes are of the engine; a judge.model tells its probability instead")
        if self.judge.retrain_every and self.run.mode == "steady-state":
            raise ValueError('judge.retrain_every needs generations: run.mode "generational"')
        return self

    def toml_tables(self) -> dict[str, Any]:
        """The resolved configuration as it is written to run.toml; TOML has no null, so what is not set is absent."""
        return self.model_dump(mode="json", exclude_none=True)

    def lasting_tables(self) -> dict[str, Any]:
        """What a run cannot change when it goes on: all but budget, prices, and where its servers are to be found."""
        tables = self.toml_tables()
        del tables["budget"], tables["prices"]
        for key in ("base_url", "api_key_env", "timeout", "tensor_parallel_size", "gpu_memory_utilization"):
            tables["engine"].pop(key, None)
        for key in SERVED:
            tables["reward"].pop(key, None)
        return tables


def parse_config(tables: dict[str, Any], *, name: str = "configuration") -> Config:
    """Check the tables of a configuration.

    Raises:
        FittestError: names each wrong key, what was found and what would be right.
    """
    return checked(Config, tables, name=name)


def checked(kind: type[Checked], tables: dict[str, Any], *, name: str) -> Checked:
    """The tables as a section of this kind.

    Raises:
        FittestError: names each wrong key, what was found and what would be right.
    """
    try:
        return kind.model_validate(tables)
    except ValidationError as error:
        raise FittestError(f"{name}: " + "; ".join(_problem(dict(problem)) for problem in error.errors())) from None


def _problem(problem: dict[str, Any]) -> str:
    """One validation problem in words."""
    key = ".".join(str(part) for part in problem["loc"]) or "configuration"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key}"
    if problem["type"] == "missing":
        return f"{key} is missing"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if isinstance(problem["input"], dict):
        return f"{key}: {message}"
    return f"{key} = {problem['input']!r}: {message}"
