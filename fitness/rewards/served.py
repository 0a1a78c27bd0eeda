"""Provides the score of a reward model behind vLLM's `/classify`; each request carries one response."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from fittest.evo.backends.endpoint import Endpoint
from fittest.evo.backends.servers import Cause, Trouble
from fittest.evo.errors import FittestError, RequestFailedError, first_error
from fittest.evo.records import Missing, Request

_PATH = "/classify"


class ServedReward:
    """Asks vLLM's `/classify` for the score of the chat of a prompt and a response.

    `/classify` takes one chat per request and applies the model's own chat template to it; vLLM batches what is in
    flight. The server decides which responses share a batch, and with it the last bits of a score. Rewards are
    journalled before they are used, so a resumed run repeats them, but a run from the beginning may not.

    The fingerprint is the model's name alone, as with the engine `openai`. If the server refuses a response, for
    example because it is longer than the model's context, the reward is missing and the reason is what the server
    said.

    Args:
        base_url: the address of each server; a `/v1` at its end is left out.
        model: the name that the servers know the model by.
        api_key_env: the environment variable that holds the key; if None, no key is sent.
        slots: responses in flight at once, all servers together.
        timeout: seconds that one response may take.
        patience: seconds for which no server may answer before the run stops.

    Raises:
        FittestError: the key is not set, or aiohttp is not installed.
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
            probe=(_PATH, self._body("Say hello.", "Hello.")),
            hint=f"does vLLM serve reward.model = {model!r} as a classifier there (--runner pooling)?",
        )

    async def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | Missing]:
        """Returns rewards in the order of the responses."""
        # open while any response is scored, so that nobody has to close it at the end of a run
        async with self._endpoint:
            try:
                async with asyncio.TaskGroup() as group:
                    rows = zip(prompts, responses, strict=True)
                    tasks = [group.create_task(self._score(prompt, response)) for prompt, response in rows]
            except BaseExceptionGroup as errors:
                raise first_error(errors) from None
        return [task.result() for task in tasks]

    @property
    def trouble(self) -> str | None:
        """Returns what the servers say while all of them are out of order; None while one of them works."""
        return self._endpoint.trouble

    async def try_out(self, requests: Sequence[Request] = ()) -> list[str]:
        """Lets each server score one response, and returns what a user should know all the same.

        Args:
            requests: they are not needed, since all that it is asked for is alike.
        """
        return await self._endpoint.try_out("score", self._reward)

    async def _score(self, prompt: str, response: str) -> float | Missing:
        try:
            return await self._endpoint.ask(_PATH, self._body(prompt, response), self._reward)
        except RequestFailedError as error:
            return Missing(str(error))

    def _body(self, prompt: str, response: str) -> bytes:
        chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        # without this vLLM would squash the reward through a sigmoid
        return json.dumps({"model": self._model, "messages": chat, "use_activation": False}).encode()

    def _reward(self, reply: Mapping[str, Any]) -> float:
        scores = reply["data"][0].get("probs")
        if not isinstance(scores, list) or not all(isinstance(score, (int, float)) for score in scores) or not scores:
            raise Trouble(Cause.BROKEN, "the reply has no scores")
        if len(scores) > 1:
            raise FittestError(
                f"reward.model: {self._model} gives {len(scores)} labels; expected a reward model with one"
            )
        return float(scores[0])
