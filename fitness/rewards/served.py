"""A reward model behind vLLM's `/classify`: the server formats, batches and scores; pairs travel one to a request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from fittest.evo.backends.endpoint import Endpoint
from fittest.evo.backends.servers import BROKEN, Trouble
from fittest.evo.errors import FittestError, RequestFailedError, first_error
from fittest.evo.records import Missing

PATH = "/classify"


class ServedReward:
    """The score that vLLM's `/classify` gives the chat of a prompt and a response.

    `/classify` takes one chat a request and applies the model's own chat template to it; vLLM itself batches whatever
    is in flight. Which pairs meet in a batch is up to the server, so the last bits of a score are too: rewards are
    journalled before they are used, and a resumed run repeats them, but a run from the beginning may not.

    The fingerprint is the model's name alone, as with the engine `openai`. A pair that the server refuses, such as one
    that is longer than the model's context, is missing in the server's words.

    Args:
        base_url: where vLLM listens, of each server; a `/v1` at its end is left out.
        model: the name that the servers know it by.
        api_key_env: the environment variable that holds the key; without it no key is sent.
        slots: pairs in flight at once, all servers together.
        timeout: seconds that one pair may take.
        patience: seconds for which no server may answer before the run stops.

    Raises:
        FittestError: the key or aiohttp is not there.
    """

    quick = False

    def __init__(
        self,
        *,
        base_url: Sequence[str],
        model: str,
        api_key_env: str | None = None,
        slots: int = 64,
        timeout: float = 600.0,
        patience: float = 300.0,
    ) -> None:
        self.fingerprint = f"classifier:{model}@served"
        self._model = model
        self._endpoint = Endpoint(
            section="reward",
            base_url=[url.rstrip("/").removesuffix("/v1") for url in base_url],
            api_key_env=api_key_env,
            slots=slots,
            timeout=timeout,
            patience=patience,
            items="data",
            probe=(PATH, self._body("Say hello.", "Hello.")),
            hint=f"does vLLM serve reward.model = {model!r} as a classifier there (--runner pooling)?",
        )

    async def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | Missing]:
        """Rewards in the order of the pairs."""
        # open while any pair is being scored, so that nobody has to close it at the end of a run
        async with self._endpoint:
            try:
                async with asyncio.TaskGroup() as group:
                    pairs = zip(prompts, responses, strict=True)
                    tasks = [group.create_task(self._score(prompt, response)) for prompt, response in pairs]
            except BaseExceptionGroup as errors:
                raise first_error(errors) from None
        return [task.result() for task in tasks]

    @property
    def trouble(self) -> str | None:
        """What the servers say while all of them are out of order."""
        return self._endpoint.trouble

    async def try_out(self) -> None:
        """Have each server score one pair.

        Raises:
            FittestError: which server gives no score, and what it said.
        """
        await self._endpoint.try_out("score", self._reward)

    async def _score(self, prompt: str, response: str) -> float | Missing:
        try:
            return await self._endpoint.ask(PATH, self._body(prompt, response), self._reward)
        except RequestFailedError as error:
            return Missing(str(error))

    def _body(self, prompt: str, response: str) -> bytes:
        chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        # without this vLLM would squash the reward through a sigmoid
        return json.dumps({"model": self._model, "messages": chat, "use_activation": False}).encode()

    def _reward(self, reply: Mapping[str, Any]) -> float:
        scores = reply["data"][0].get("probs")
        if not isinstance(scores, list) or not all(isinstance(score, (int, float)) for score in scores) or not scores:
            raise Trouble(BROKEN, "the reply has no scores")
        if len(scores) > 1:
            raise FittestError(
                f"reward.model: {self._model} gives {len(scores)} labels; expected a reward model with one"
            )
        return float(scores[0])
