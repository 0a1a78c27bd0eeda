"""Counts how many replies of a real model become usable prompts, for each template and form of the few-shot operators.

    python benchmarks/operator_yield.py

The seven templates of the usual mix take about five minutes on two free cores. Each finished cell (engine, form,
template) is appended to benchmarks/results/operator_yield.jsonl, and a cell that is there is not measured again,
unless its wording or size has changed.

The forms are those of a run: a text that is continued ("completion"), a chat whose answer is begun ("prefill") and a
plain chat. The engines are llama.cpp in this process, and the same model behind its HTTP server, asked at
/v1/completions and /v1/chat/completions as a run does. A reply is usable if the parser and the gates that need no
embedding pass it; the archive holds the pool, and what was accepted before in the same cell. "tags" is the share of
replies that hold the tags themselves, which only a plain chat has to write. "kept" is the share of usable prompts
that have a word of four letters or more from a parent: a prompt that has none is fresh, but it is no offspring.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import multiprocessing
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from math import sqrt
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from listening import Listening

from fittest.evo.backends.llamacpp import LlamaCpp
from fittest.evo.backends.openai import OpenAI
from fittest.evo.breeding import proposal_request
from fittest.evo.keys import request_key
from fittest.evo.prompt import Prompt
from fittest.evo.protocols import Ask, Gate
from fittest.evo.records import Birth, Completion, Failure, Form, Proposal, Request, Sampling
from fittest.operators.few_shot import Blend, Cross, Mutate, Reason, SelfRip
from fittest.operators.gates import build_gates
from fittest.operators.parsing import Unusable, parse_candidate
from fittest.operators.repair import Repair
from fittest.runs.asking import with_engine
from fittest.runs.models import find_model
from fittest.runs.output.journal import SqliteJournal
from fittest.runs.sources.pool import STARTER_POOL, read_pool

Engine = Literal["embedded", "http"]
RESULTS = Path(__file__).parent / "results" / "operator_yield.jsonl"
TEMPLATES = ("self_rip", *(f"mutate/{name}" for name in Mutate.MUTATIONS), "cross", "reason", "blend", "repair")
# without parents, there is nothing to keep a word of
FROM_NOBODY = ("self_rip", "reason", "all")
REPLIES: dict[Engine, int] = {"embedded": 16, "http": 8}
GATES = ("length", "language", "keywords", "exact", "rouge_l")
SLOTS, CONTEXT, SHOTS, SEED = 8, 1024, 6, 7
SAMPLING = Sampling(temperature=0.8, top_p=0.95, max_tokens=96)
THOUGHTS = 160
"""Tokens that a reply may have more if it thinks first."""

ANSWERS = ("There are several ways to see this. The first is what most people do; the second takes longer. …", "Yes.")
"""What repair is shown as the best and the worst answer, whatever the prompt."""


@dataclass(frozen=True)
class Cell:
    """One measurement: the requests of a template in a form, how they are read, and the parents of each."""

    engine: Engine
    model: str
    form: Form
    template: str
    requests: Sequence[Request]
    thinks: bool
    families: Sequence[Sequence[Prompt]]

    @property
    def identity(self) -> dict[str, Any]:
        """Returns what a result is found by; another wording, pool or sampling makes other requests."""
        keys = "".join(request_key(self.model, request) for request in self.requests)
        return {
            "engine": self.engine, "model": self.model, "form": self.form, "template": self.template,
            "replies": len(self.requests),
            "requests": hashlib.sha256(keys.encode()).hexdigest()[:12],
        }  # fmt: skip


@dataclass
class Yield:
    """Counts what became of the replies of a cell."""

    usable: int = 0
    tags: int = 0
    kept: int = 0
    turned_away: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0


def main() -> None:
    """Measure what is not measured yet, and print all."""
    options = _options()
    pool = [Prompt(text, Birth("pool", 0, 0)) for text in _short_prompts(options.pool)]
    cells = [
        _cell(engine, form, template, pool, options)
        # all forms of a template together, so that what is measured of a run that was stopped can be compared
        for engine in options.engines
        for template in options.templates
        for form in options.forms
    ]
    known = _known(options.results)
    left = [cell for cell in cells if _key(cell.identity) not in known]
    model = Path(find_model(options.model))
    for engine in options.engines:
        _measure_all([cell for cell in left if cell.engine == engine], model, pool, options)
    known = _known(options.results)
    for engine in options.engines:
        _print_table(engine, [known[_key(cell.identity)] for cell in cells if cell.engine == engine])


def _cell(engine: Engine, form: Form, template: str, pool: Sequence[Prompt], options: argparse.Namespace) -> Cell:
    """Draws a cell's requests; the draws, like those of a run, do not depend on the form."""
    rng = np.random.default_rng([SEED, TEMPLATES.index(template)])
    families, requests, thinks = [], [], False
    for number in range(options.replies or REPLIES[engine]):
        drawn = [pool[i] for i in rng.choice(len(pool), SHOTS + 2, replace=False)]
        proposal = _propose(template, drawn, rng)
        families.append(drawn[:2] if template in ("cross", "blend") else drawn[:1])
        thinks = proposal.thinks
        sampling = replace(SAMPLING, max_tokens=SAMPLING.max_tokens + THOUGHTS) if thinks else SAMPLING
        requests.append(proposal_request(proposal, form, sampling=sampling, seed=number))
    return Cell(engine, options.model, form, template, requests, thinks, families)


def _propose(template: str, prompts: Sequence[Prompt], rng: np.random.Generator) -> Proposal:
    a, b, *exemplars = prompts
    if template == "self_rip":
        return SelfRip()(exemplars, rng)
    if template in ("cross", "blend"):
        return (Cross() if template == "cross" else Blend())(a, b, exemplars, rng)
    if template == "reason":
        return Reason()(exemplars, rng)
    if template == "repair":
        a.failed_metrics = ("m2",)
        return Repair()(a, exemplars, rng, [ANSWERS])
    return Mutate(mutations=[template.removeprefix("mutate/")])(a, exemplars, rng)


def _measure_all(cells: Sequence[Cell], model: Path, pool: Sequence[Prompt], options: argparse.Namespace) -> None:
    """Measures the cells of one engine."""
    if not cells:
        return
    body = partial(_measured, cells=cells, pool=pool, results=options.results)
    total = sum(len(cell.requests) for cell in cells)
    if cells[0].engine == "embedded":
        engine = LlamaCpp(model=model, slots=SLOTS, context=CONTEXT, threads=options.threads)
        with_engine("replies", body, engine, SqliteJournal(":memory:"), total=total)
        return
    with _llama_server(model, options.threads) as url:
        served = OpenAI(base_url=[url], model=options.model, slots=SLOTS)
        with_engine("replies", body, served, SqliteJournal(":memory:"), total=total)


async def _measured(ask: Ask, *, cells: Sequence[Cell], pool: Sequence[Prompt], results: Path) -> None:
    for cell in cells:
        found = _counted(cell, await ask(cell.requests), pool)
        results.parent.mkdir(parents=True, exist_ok=True)
        with results.open("a") as file:
            file.write(json.dumps(cell.identity | vars(found)) + "\n")


def _counted(cell: Cell, replies: Sequence[Completion | Failure], pool: Sequence[Prompt]) -> Yield:
    gates = [gate for gate in build_gates() if gate.name in GATES]
    for prompt in pool:
        _admit(prompt, gates)
    result = Yield()
    for reply, parents in zip(replies, cell.families, strict=True):
        if isinstance(reply, Failure):
            result.turned_away[reply.reason] += 1
            continue
        result.prompt_tokens += reply.prompt_tokens
        result.completion_tokens += reply.completion_tokens
        result.tags += bool(re.search(r"<task>.*</task>", reply.text, re.DOTALL | re.IGNORECASE))
        candidate = parse_candidate(reply.text, reply.finish_reason, thinks=cell.thinks)
        if isinstance(candidate, Unusable):
            result.turned_away[candidate.reason] += 1
            continue
        prompt = Prompt(candidate, Birth(cell.template, 1, 0))
        if gate := next((gate.name for gate in gates if gate.check(prompt)), None):
            result.turned_away[gate] += 1
            continue
        _admit(prompt, gates)
        result.usable += 1
        result.kept += bool(_content(candidate) & _content(" ".join(parent.text for parent in parents)))
    return result


def _print_table(engine: Engine, cells: Sequence[dict[str, Any]]) -> None:
    print(f"\n{engine}, {cells[0]['model']}")
    print(f"{'form':<11}{'template':<22}{'replies':>8}{'usable':>8}{'share':>7}{'95 %':>12}{'tags':>6}{'kept':>6}")
    for form in dict.fromkeys(cell["form"] for cell in cells):
        rows = [cell for cell in cells if cell["form"] == form]
        sums = {name: sum(row[name] for row in rows) for name in ("replies", "usable", "tags", "kept")}
        away: Counter[str] = Counter()
        for row in rows:
            away.update(row["turned_away"])
        for row in [*rows, {"template": "all", "turned_away": away, **sums}]:
            _print_row(form, row)


def _print_row(form: str, row: dict[str, Any]) -> None:
    low, high = _wilson(row["usable"], row["replies"])
    kept = "–" if row["template"] in FROM_NOBODY else f"{row['kept'] / max(1, row['usable']):.0%}"
    reasons = ", ".join(f"{reason} {count}" for reason, count in Counter(row["turned_away"]).most_common())
    print(
        f"{form:<11}{row['template']:<22}{row['replies']:>8}{row['usable']:>8}{row['usable'] / row['replies']:>7.0%}"
        f"{low:>6.0%}–{high:<5.0%}{row['tags'] / row['replies']:>6.0%}{kept:>6}  {reasons}"
    )


def _wilson(successes: int, trials: int) -> tuple[float, float]:
    """Returns Wilson's 95 % interval of a share."""
    z, share = 1.96, successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    return centre - half, centre + half


def _known(results: Path) -> dict[str, dict[str, Any]]:
    """Reads the cells measured so far, by what they are found by."""
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    return {_key(row): row for row in rows}


def _key(row: dict[str, Any]) -> str:
    return " ".join(str(row[name]) for name in ("engine", "model", "form", "template", "replies", "requests"))


def _admit(prompt: Prompt, gates: Sequence[Gate]) -> None:
    for gate in gates:
        gate.admit(prompt)


def _content(text: str) -> set[str]:
    return set(re.findall(r"\w{4,}", text.lower())) - {"what", "which", "that", "this", "your", "with", "does", "some"}


def _short_prompts(path: str) -> list[str]:
    """Returns the one-line prompts of ordinary length, as survivors of a first generation would be."""
    texts = (prompt.text for prompt in read_pool(path).prompts)
    return [text for text in dict.fromkeys(texts) if 30 <= len(text) <= 160 and text.isascii() and "\n" not in text]


@contextmanager
def _llama_server(model: Path, threads: int) -> Iterator[str]:
    """Runs the server of llama.cpp in another process, and yields the address for requests."""
    spawning = multiprocessing.get_context("spawn")
    here, there = spawning.Pipe()
    program = spawning.Process(target=_serve, args=(model, threads, there), daemon=True)
    program.start()
    there.close()
    yield here.recv()
    here.close()
    program.join()


def _serve(model: Path, threads: int, parent: Connection) -> None:
    """Serves until the parent closes the connection."""

    async def serve() -> None:
        async with Listening(model=model, slots=SLOTS, context=CONTEXT, threads=threads) as engine:
            parent.send(engine.url)
            await asyncio.to_thread(parent.poll, None)

    asyncio.run(serve())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="a known name, or a GGUF file")
    parser.add_argument("--pool", default=str(STARTER_POOL), help="any pool; the built-in one when absent")
    parser.add_argument("--engines", nargs="+", choices=get_args(Engine), default=get_args(Engine))
    parser.add_argument("--forms", nargs="+", choices=get_args(Form), default=get_args(Form))
    parser.add_argument("--templates", nargs="+", choices=TEMPLATES, default=TEMPLATES)
    parser.add_argument("--replies", type=int, help="replies of each cell; 16 embedded and 8 over HTTP when absent")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
