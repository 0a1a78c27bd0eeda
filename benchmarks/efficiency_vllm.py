"""Measures what fittest's feeder and journal cost a vLLM engine in throughput.

    make bench-vllm

Both sides send the same requests, with the same seeds, to the same engine in this process: vLLM alone through its
asynchronous `generate`, all requests before the first reply; fittest through feeder, journal on disk and backend, with
as many slots as the engine has sequences. They take turns over the rounds; the prefix cache is emptied before each.
The program exits with status 1 when the median over the rounds is less than 0.95 of vLLM's tokens per second.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from fittest.evo.backends.vllm import Vllm
from fittest.evo.feeder import Feeder
from fittest.evo.records import Completion, Message, Request, Sampling
from fittest.runs.models import weights_of
from fittest.runs.output.accounting import idle_fraction
from fittest.runs.output.journal import SqliteJournal

LEAST_RATIO = 0.95
TASKS = (
    "Explain to a child how {} works.",
    "Write a story about {} that ends well.",
    "List ten things that everyone should know about {}.",
    "What would the world be like without {}? Go into detail.",
)
TOPICS = (
    "a steam engine", "the tide", "bread", "a library", "the postal service", "a vaccine", "chess", "a lighthouse",
    "the compass", "a beehive", "photography", "a suspension bridge", "the alphabet", "winter", "a symphony", "salt",
)  # fmt: skip


def requests_of(count: int, *, max_tokens: int, first_seed: int) -> list[Request]:
    """Returns requests for this number of prompts, one sample each, with seeds of their own."""
    prompts = [task.format(topic) for topic in TOPICS for task in TASKS]
    sampling = Sampling(max_tokens=max_tokens)
    return [
        Request("rollout", sampling, first_seed + number, 0, (Message("user", prompts[number % len(prompts)]),))
        for number in range(count)
    ]


async def by_vllm(engine: Any, requests: Sequence[Request]) -> int:
    """Returns the completion tokens of vLLM's own `generate`, which receives every request at the start."""
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input
    from vllm.sampling_params import RequestOutputKind

    tokenizer = engine.get_tokenizer()

    async def generate(request: Request) -> int:
        chat = [message._asdict() for message in request.messages]
        tokens = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        parameters = SamplingParams(
            temperature=request.sampling.temperature,
            top_p=request.sampling.top_p,
            max_tokens=request.sampling.max_tokens,
            seed=request.seed,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        async for output in engine.generate(tokens_input(tokens), parameters, f"vllm-{request.seed}"):
            last = output
        return len(last.outputs[0].token_ids)

    return sum(await asyncio.gather(*(generate(request) for request in requests)))


class Entered:
    """Wraps an engine that is loaded already, so that a feeder does not load and free it."""

    def __init__(self, backend: Vllm) -> None:
        self.fingerprint, self.slots, self.sample = backend.fingerprint, backend.slots, backend.sample

    async def __aenter__(self) -> Entered:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None


async def by_fittest(backend: Vllm, requests: Sequence[Request]) -> tuple[int, float]:
    """Returns the completion tokens through feeder and journal, and the idle share of the engine's slots."""
    with tempfile.TemporaryDirectory() as folder:
        journal = SqliteJournal(Path(folder, "journal.sqlite"))
        async with Feeder(Entered(backend), journal) as feeder:
            replies = await feeder.ask_all(requests)
        idle = idle_fraction(journal.in_flight_changes(), backend.slots)
        journal.close()
    return sum(reply.completion_tokens for reply in replies if isinstance(reply, Completion)), idle or 0.0


async def compare(name: str, *, count: int, slots: int, max_tokens: int, rounds: int) -> float:
    """Prints each round, and returns the median of fittest's throughput divided by vLLM's."""
    ratios = []
    began = time.perf_counter()
    backend = Vllm(model=weights_of(name, dtype="bfloat16"), slots=slots, engine_args={"max_model_len": 1024})
    async with backend:
        engine = backend._engine
        print(f"{name}: loaded in {time.perf_counter() - began:.0f} s; {count} requests, {slots} slots,"
              f" at most {max_tokens} tokens each")  # fmt: skip
        await by_vllm(engine, requests_of(slots, max_tokens=max_tokens, first_seed=10**6))  # warms up
        for number in range(rounds):
            requests = requests_of(count, max_tokens=max_tokens, first_seed=number * count)
            rates = {}
            for side in ("vLLM", "fittest") if number % 2 == 0 else ("fittest", "vLLM"):
                await engine.reset_prefix_cache()
                began = time.perf_counter()
                if side == "vLLM":
                    tokens, note = await by_vllm(engine, requests), ""
                else:
                    tokens, idle = await by_fittest(backend, requests)
                    note = f", slots idle {idle:.1%}"
                seconds = time.perf_counter() - began
                rates[side] = tokens / seconds
                print(f"round {number + 1}, {side}: {tokens} completion tokens in {seconds:.1f} s,"
                      f" {rates[side]:.1f} tokens/s{note}")  # fmt: skip
            ratios.append(rates["fittest"] / rates["vLLM"])
    print(f"fittest / vLLM: {', '.join(f'{ratio:.3f}' for ratio in ratios)}")
    return statistics.median(ratios)


@click.command()
@click.option("--model", default="smollm2-135m", show_default=True, help="As engine.model of kind vllm.")
@click.option("--requests", "count", default=48, show_default=True)
@click.option("--slots", default=16, show_default=True)
@click.option("--max-tokens", default=32, show_default=True)
@click.option("--rounds", default=3, show_default=True)
def main(model: str, count: int, slots: int, max_tokens: int, rounds: int) -> None:
    """Measure, print, and exit with status 1 when the bound is missed."""
    ratio = asyncio.run(compare(model, count=count, slots=slots, max_tokens=max_tokens, rounds=rounds))
    print(f"median {ratio:.3f} (at least {LEAST_RATIO})")
    sys.exit(ratio < LEAST_RATIO)


if __name__ == "__main__":
    main()
