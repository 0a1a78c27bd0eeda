"""[reward] and [judge] of a configuration: one section for each kind of reward, and who compares answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from fittest.fitness.judge.verdict import ORDERS
from fittest.runs.config.engine import AnyOtherEngine, EngineSection
from fittest.runs.config.kind_section import ChosenSection, KindSection, SectionKinds
from fittest.runs.config.kinds import Kind
from fittest.runs.config.paths import FileName, NameOrFile
from fittest.runs.config.section import MOST_WEIGHT, Section
from fittest.runs.config.servers import Urls, check_headers, check_no_secrets, check_servers
from fittest.runs.config.world import WorldSection


class RunJudgeSection(Section):
    """[judge]: who compares answers for reward kind "pairwise", and when it is trained."""

    model: NameOrFile | None = None
    adapter: FileName | None = None
    device: str = "auto"
    retrain_every: int = Field(default=0, ge=0, le=1_000_000)
    rewards: Literal["recompute", "keep"] = "recompute"
    instructions: int = Field(default=40, ge=2, le=10_000_000)
    samples: int = Field(default=15, ge=1, le=10_000)
    max_tokens: int = Field(default=64, ge=1, le=10_000_000)
    iterations: int = Field(default=1, ge=1, le=1_000)
    epochs: int = Field(default=2, ge=1, le=1_000)
    learning_rate: float = Field(default=1e-4, gt=0, le=10)

    @model_validator(mode="after")
    def _only_a_model_can_be_trained(self) -> Self:
        if self.model is None and (self.adapter is not None or self.retrain_every):
            raise ValueError("adapter and retrain_every need model: a folder, a .gguf file or a Hugging Face name")
        return self


class RewardSection(KindSection):
    """What the sections of all rewards have in common.

    Attributes:
        COMPARES: whether each answer is compared with a reference answer, by the judge that [judge] describes.
        TRIED: whether one pair shows that the reward works; a recording knows no other pairs.
    """

    COMPARES: ClassVar[bool] = False
    TRIED: ClassVar[bool] = True

    @property
    def label(self) -> str:
        """Returns the word for the reward in messages."""
        return self.kind

    @property
    def servers(self) -> tuple[str, ...]:
        """Returns the addresses that pairs are sent to; empty if the reward is in this process."""
        return ()

    @property
    def judge_engine(self) -> EngineSection | None:
        """Returns the section of the engine that is asked for votes, if that is not the run's own."""
        return None

    @property
    def files(self) -> dict[str, str]:
        """Files that rewards depend on, by their key; a run that goes on needs the same content in them."""
        return {}

    @property
    def repeats(self) -> int:
        """Returns how often the engine is asked the same question about an answer."""
        return 1

    def judgments(self, judge: RunJudgeSection) -> int:
        """Returns how many judgments the run's own engine is asked for about each answer."""
        return 0


class HeadSection(RewardSection):
    """The preference head that fittest brings, on embeddings."""

    kind: Literal["head"] = "head"


class NullRewardSection(RewardSection):
    """Seeded pseudo-rewards; those of the engine's world if it has one, unless another is given."""

    kind: Literal["null"] = "null"
    world: WorldSection | None = None


class RecordedSection(RewardSection):
    """Rewards of a table: one column, or several with weights."""

    NEEDS = "path: a table with one row per response"
    TRIED = False

    kind: Literal["recorded"] = "recorded"
    path: FileName
    prompt_column: str = "prompt"
    response_column: str = "response"
    column: str | None = None
    weights: dict[str, float] | None = None

    @property
    def files(self) -> dict[str, str]:
        """Returns the table."""
        return {"path": self.path}

    @property
    def columns(self) -> dict[str, float]:
        """Returns the columns with their weights."""
        return self.weights or {self.column or "reward": 1.0}

    @model_validator(mode="after")
    def _one_column_or_several(self) -> Self:
        if self.column is not None and self.weights is not None:
            raise ValueError("give column, or weights of several columns, not both")
        if any(abs(weight) > MOST_WEIGHT for weight in (self.weights or {}).values()):
            raise ValueError(f"weights may be as large as {MOST_WEIGHT:g}; a sum of larger ones has no end")
        return self


class _VotedSection(RewardSection):
    """A reward by votes of an engine, which is the run's own unless [reward.engine] names another."""

    engine: AnyOtherEngine | None = None

    @property
    def judge_engine(self) -> EngineSection | None:
        """Returns [reward.engine]."""
        return self.engine

    def lasting(self) -> dict[str, Any]:
        """Returns the keys that a run cannot change when it goes on; the engine's servers are not among them."""
        found = super().lasting()
        return found if self.engine is None else found | {"engine": self.engine.lasting_elsewhere()}


class JudgeRewardSection(_VotedSection):
    """Scores that an engine gives in words."""

    kind: Literal["judge"] = "judge"
    scale: int = Field(default=10, ge=1, le=1_000)
    votes: int = Field(default=10, ge=1, le=10_000)

    @property
    def repeats(self) -> int:
        """Returns the configured number of votes."""
        return self.votes

    def judgments(self, judge: RunJudgeSection) -> int:
        """Returns the number of votes."""
        return self.votes


class PairwiseSection(_VotedSection):
    """The chance of an answer to be preferred to a reference answer.

    The default of `votes` is None and not 1, since a judge that is a model of its own gives probabilities, not votes.
    """

    COMPARES = True

    kind: Literal["pairwise"] = "pairwise"
    votes: int | None = Field(default=None, ge=1, le=10_000)

    @property
    def repeats(self) -> int:
        """Returns the configured number of votes, or one."""
        return self.votes or 1

    def judgments(self, judge: RunJudgeSection) -> int:
        """Returns the number of votes in both orders, if the engine is the judge."""
        return len(ORDERS) * self.repeats if judge.model is None else 0


class ClassifierSection(RewardSection):
    """A reward model in this process."""

    NEEDS = "model: a Hugging Face name or a folder, or with base_url the name that the server knows it by"
    WITH = " without base_url"

    SWITCH: ClassVar[str] = "base_url"

    kind: Literal["classifier"] = "classifier"
    model: NameOrFile
    trust_remote_code: bool = False
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    batch_tokens: int = Field(default=0, ge=0, le=1_000_000_000)

    @property
    def label(self) -> str:
        """Returns the model's name."""
        return self.model

    @classmethod
    def variant(cls, tables: Mapping[str, Any]) -> type[ChosenSection]:
        """Returns the section of a served reward model if a server is given."""
        return ServedClassifierSection if tables.get("base_url") else cls


class ServedClassifierSection(RewardSection):
    """A reward model on servers; the model is a name that they know, whatever files are here."""

    NEEDS = ClassifierSection.NEEDS
    WITH = " with base_url"
    MAY_CHANGE = frozenset(
        {"base_url", "api_key_env", "headers_env", "extra_query", "batch", "slots", "timeout", "max_reply_mib"}
    )

    kind: Literal["classifier"] = "classifier"
    model: str
    base_url: Urls
    api_key_env: str | None = None
    headers_env: dict[str, str] = Field(default={})
    extra_query: dict[str, str] = Field(default={})
    api: Literal["classify", "pooling", "score"] = "classify"
    batch: int | None = Field(default=None, ge=1, le=100_000)
    slots: int = Field(default=64, ge=1, le=16_384)
    timeout: float = Field(default=600.0, gt=0, le=604_800)
    max_reply_mib: int = Field(default=16, ge=1, le=1024)

    @property
    def label(self) -> str:
        """Returns the model's name."""
        return self.model

    @property
    def servers(self) -> tuple[str, ...]:
        """Returns the configured addresses."""
        return self.base_url

    @model_validator(mode="after")
    def _servers_without_secrets(self) -> Self:
        check_servers(self.base_url, self.api_key_env)
        check_headers(self.headers_env, self.api_key_env)
        check_no_secrets("extra_query", self.extra_query)
        if self.batch is not None and self.api != "score":
            raise ValueError(f'batch goes with api = "score"; api = "{self.api}" takes one pair in each request')
        return self


class HttpRewardSection(RewardSection):
    """Any service that takes pairs and gives numbers, by the contract of docs/rewards.md."""

    NEEDS = 'url, complete with its path, such as "http://localhost:9000/score"'
    MAY_CHANGE = frozenset(
        {"url", "api_key_env", "headers_env", "extra_query", "batch", "slots", "timeout", "max_reply_mib"}
    )

    kind: Literal["http"] = "http"
    url: Urls
    # part of the fingerprint, as the model is; a colon stands between them
    name: str = Field(default="http", pattern=r"^[\w.+-]+$")
    model: str | None = None
    api_key_env: str | None = None
    headers_env: dict[str, str] = Field(default={})
    extra_query: dict[str, str] = Field(default={})
    batch: int = Field(default=16, ge=1, le=100_000)
    slots: int = Field(default=16, ge=1, le=16_384)
    timeout: float = Field(default=600.0, gt=0, le=604_800)
    max_reply_mib: int = Field(default=16, ge=1, le=1024)

    @property
    def label(self) -> str:
        """Returns the service's name."""
        return self.name

    @property
    def servers(self) -> tuple[str, ...]:
        """Returns the configured addresses."""
        return self.url

    @model_validator(mode="after")
    def _services_without_secrets(self) -> Self:
        check_servers(self.url, self.api_key_env, key="url")
        check_headers(self.headers_env, self.api_key_env)
        check_no_secrets("extra_query", self.extra_query)
        return self


REWARDS = SectionKinds(
    "fittest.rewards",
    "reward",
    {
        "head": Kind("fittest.runs.parts.rewards:head", HeadSection),
        "null": Kind("fittest.runs.parts.rewards:null", NullRewardSection),
        "recorded": Kind("fittest.runs.parts.rewards:recorded", RecordedSection),
        "judge": Kind("fittest.runs.parts.rewards:judge", JudgeRewardSection),
        "pairwise": Kind("fittest.runs.parts.rewards:pairwise", PairwiseSection),
        "classifier": Kind("fittest.runs.parts.rewards:classifier", ClassifierSection),
        "http": Kind("fittest.runs.parts.rewards:http", HttpRewardSection),
    },
    base=RewardSection,
    default="head",
)

AnyReward = Annotated[SerializeAsAny[RewardSection], BeforeValidator(REWARDS.read)]
"""The section of the kind that a table names."""
