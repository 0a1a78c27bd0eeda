"""Counts how many replies of a real model become usable prompts, for each template of the few-shot operators.

    python benchmarks/operator_yield.py --model SmolLM2-135M-Instruct.Q4_1.gguf --pool prompts.parquet

A reply goes through the parser and the gates that need no embedding. The archive holds all prompts drawn from the
pool, and what was accepted before. "kept" is the share of usable prompts that share a word of four letters or
more with a parent: a prompt that shares nothing is fresh, but it is no offspring.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import polars as pl

from fittest.evo.prompt import Prompt
from fittest.evo.records import Birth, Proposal
from fittest.operators.few_shot import Cross, Mutate, SelfRip
from fittest.operators.gates import build_gates
from fittest.operators.parsing import Unusable, parse_candidate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fittest.evo.protocols import Gate

SLOTS = 8
GATES = ("parse", "length", "language", "keywords", "exact", "rouge_l")


class Reply(NamedTuple):
    """Holds what the model wrote, and why it stopped."""

    text: str
    finish_reason: Literal["stop", "length"]


@dataclass
class Yield:
    """Counts what became of one template's replies."""

    turned_away: Counter[str] = field(default_factory=Counter)
    usable: list[str] = field(default_factory=list)
    kept: int = 0


class Model:
    """Runs the embedded engine, with one completion per call; several threads may call at once."""

    def __init__(self, path: Path, *, threads: int, max_tokens: int) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_parallel = SLOTS
        params.n_ctx = SLOTS * 1024
        params.cpuparams.n_threads = threads
        # threads that spin while they wait take the processor from those that work
        params.cpuparams.poll = 0
        params.verbosity = -1
        params.warmup = False
        self._server = xllamacpp.Server(params)
        self._max_tokens = max_tokens

    def complete(self, proposal: Proposal, seed: int) -> Reply:
        """Returns the model's continuation of the proposal's text."""
        parts: list[str] = []
        finish: list[Any] = []

        def take(event: Any) -> None:
            for chunk in event if isinstance(event, list) else [event]:
                choice = (json.loads(chunk) if isinstance(chunk, str | bytes) else chunk)["choices"][0]
                parts.append(choice.get("text") or "")
                finish.append(choice.get("finish_reason"))

        request = {
            "prompt": proposal.prompt,
            "max_tokens": self._max_tokens,
            "seed": seed,
            "temperature": 0.8,
            "top_p": 0.95,
            "stop": list(proposal.stop),
            "stream": True,
        }
        self._server.handle_completions(request, take)
        return Reply("".join(parts), "length" if "length" in finish else "stop")


def main() -> None:
    """Measures every template and print one row for each."""
    options = _options()
    rng = np.random.default_rng(options.seed)
    pool = _short_prompts(options.pool, options.archive, rng)
    gates = [gate for gate in build_gates() if gate.name in GATES]
    for prompt in pool:
        _admit(prompt, gates)
    model = Model(options.model, threads=options.threads, max_tokens=options.max_tokens)
    print(f"{'template':<22}{'replies':>8}{'usable':>8}{'share':>7}{'kept':>6}  turned away")
    for template in options.templates:
        _report(template, _measure(template, model, pool, gates, rng, options), options)


def _measure(
    template: str,
    model: Model,
    pool: Sequence[Prompt],
    gates: Sequence[Gate],
    rng: np.random.Generator,
    options: argparse.Namespace,
) -> Yield:
    drawn = [
        [pool[i] for i in rng.choice(len(pool), options.shots + 2, replace=False)] for _ in range(options.replies)
    ]
    proposals = [_propose(template, prompts, rng) for prompts in drawn]
    with ThreadPoolExecutor(SLOTS) as threads:
        replies = list(threads.map(model.complete, proposals, rng.integers(2**31, size=options.replies).tolist()))
    result = Yield()
    for reply, prompts in zip(replies, drawn, strict=True):
        candidate = parse_candidate(*reply)
        if isinstance(candidate, Unusable):
            result.turned_away[candidate.reason] += 1
            continue
        prompt = Prompt(candidate, Birth(template, 1, 0))
        gate = next((gate.name for gate in gates if gate.check(prompt)), None)
        if gate:
            result.turned_away[gate] += 1
            continue
        _admit(prompt, gates)
        result.usable.append(candidate)
        parents = prompts[:2] if template == "cross" else prompts[:1]
        result.kept += bool(_content(candidate) & _content(" ".join(parent.text for parent in parents)))
    return result


def _propose(template: str, prompts: Sequence[Prompt], rng: np.random.Generator) -> Proposal:
    a, b, *exemplars = prompts
    if template == "self_rip":
        return SelfRip()(exemplars, rng)
    if template == "cross":
        return Cross()(a, b, exemplars, rng)
    return Mutate(mutations=[template.removeprefix("mutate/")])(a, exemplars, rng)


def _report(template: str, result: Yield, options: argparse.Namespace) -> None:
    usable = len(result.usable)
    kept = f"{result.kept / usable:.0%}" if usable and template != "self_rip" else "–"
    reasons = ", ".join(f"{reason} {count}" for reason, count in result.turned_away.most_common())
    share = usable / options.replies
    print(f"{template:<22}{options.replies:>8}{usable:>8}{share:>7.0%}{kept:>6}  {reasons or '–'}", flush=True)
    for text in result.usable[: options.show]:
        print(f"    {text!r}")


def _admit(prompt: Prompt, gates: Sequence[Gate]) -> None:
    for gate in gates:
        gate.admit(prompt)


def _content(text: str) -> set[str]:
    return set(re.findall(r"\w{4,}", text.lower())) - {"what", "which", "that", "this", "your", "with", "does", "some"}


def _short_prompts(path: Path, count: int, rng: np.random.Generator) -> list[Prompt]:
    """Returns a sample of one-line prompts of ordinary length, as survivors of a first generation would be."""
    text = pl.col("prompt")
    suitable = (
        text.str.len_chars().is_between(30, 160) & ~text.str.contains("\n") & ~text.str.contains(r"[^\x00-\x7f]")
    )
    texts = pl.read_parquet(path).filter(suitable)["prompt"].unique(maintain_order=True).to_list()
    return [Prompt(texts[i], Birth("pool", 0, 0)) for i in rng.permutation(len(texts))[:count]]


def _options() -> argparse.Namespace:
    every = ["self_rip", *(f"mutate/{name}" for name in Mutate.MUTATIONS), "cross"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--pool", type=Path, required=True, help="a Parquet file with a column `prompt`")
    parser.add_argument("--templates", nargs="+", choices=every, default=every)
    parser.add_argument("--replies", type=int, default=32, help="replies for each template")
    parser.add_argument("--shots", type=int, default=6, help="exemplars in each request")
    parser.add_argument("--archive", type=int, default=1000, help="prompts drawn from the pool")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--show", type=int, default=0, help="usable prompts to print for each template")
    return parser.parse_args()


if __name__ == "__main__":
    main()
