"""Provides the score of a reward model that vLLM serves, through `/classify`, `/pooling` or `/score`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from fittest.evo.backends.endpoint import Endpoint
from fittest.evo.backends.servers import Cause, Trouble
from fittest.evo.errors import FittestError
from fittest.evo.markup import KNOWN
from fittest.fitness.rewards.remote import Pair, PairForm, RemoteReward, Score, numbers_in

Api = Literal["classify", "pooling", "score"]
"""The path of vLLM at which a reward model is asked."""


class ServedReward(RemoteReward):
    """Asks vLLM for the reward of a response to a prompt.

    `/classify` and `/pooling` take one chat per request and apply the model's own chat template to it; vLLM batches
    what is in flight. `/score` takes several pairs of texts per request, and joins each pair as the model's
    cross-encoder or score template says. If `/pooling` gives a number for each token, the reward is that of the last
    token.

    The server decides which responses share a batch, and with it the last bits of a score. Rewards are journalled
    before they are used, so a resumed run repeats them, but a run from the beginning may not.

    The fingerprint is the model's name and the path, as with the engine `openai`. If the server refuses a response,
    for example because it is longer than the model's context, the reward is missing and the reason is what the server
    said.

    Args:
        base_url: the address of each server; a `/v1` at its end is left out.
        model: the name that the servers know the model by.
        api: the path at which it is asked.
        batch: the most pairs of one request to `/score`.
        api_key_env: the environment variable that holds the key; if None, no key is sent.
        headers_env: more headers, and the environment variables that hold their values.
        extra_query: parameters that are added to each address.
        slots: requests in flight at once, all servers together.
        timeout: seconds that one request may take.
        patience: seconds for which no server may answer before the run stops.
        max_reply_mib: the largest reply that is read, in MiB.

    Raises:
        FittestError: the key is not set, or aiohttp is not installed.
    """

    def __init__(
        self,
        *,
        base_url: Sequence[str],
        model: str,
        api: Api = "classify",
        batch: int = 16,
        api_key_env: str | None = None,
        headers_env: Mapping[str, str] | None = None,
        extra_query: Mapping[str, str] | None = None,
        slots: int = 64,
        timeout: float = 600.0,
        patience: float = 300.0,
        max_reply_mib: int = 16,
    ) -> None:
        form = _score_form(model, batch) if api == "score" else _chat_form(model, api)
        endpoint = Endpoint(
            section="reward",
            base_url=[url.rstrip("/").removesuffix("/v1") for url in base_url],
            api_key_env=api_key_env,
            headers_env=headers_env,
            extra_query=extra_query,
            slots=slots,
            timeout=timeout,
            patience=patience,
            items=form.items,
            probe=form.probe,
            counts_refusals=False,
            max_reply_mib=max_reply_mib,
            hint=f"does vLLM serve reward.model = {model!r} {_AS[api]} there (--runner pooling)?",
        )
        # the name of the first path stays what it was when there was no other, so that old journals are found
        path = "" if api == "classify" else f":{api}"
        super().__init__(f"classifier:{model}@served{path}", endpoint, form)


_AS = {
    "classify": "as a classifier",
    "pooling": 'as a reward model for reward.api = "pooling"',
    "score": 'as a model with one label for reward.api = "score"',
}


def _chat_form(model: str, api: Literal["classify", "pooling"]) -> PairForm:
    """One chat per request, since neither path takes several."""

    def write(pairs: Sequence[Pair]) -> bytes:
        ((prompt, response),) = pairs
        chat = [
            {"role": "user", "content": KNOWN.defused(prompt)},
            {"role": "assistant", "content": KNOWN.defused(response)},
        ]
        # without use_activation vLLM would squash the reward through a sigmoid
        return json.dumps({"model": model, "messages": chat, "use_activation": False}).encode()

    numbers: Callable[[Mapping[str, Any]], list[float | None] | None] = _label_scores if api == "classify" else _pooled

    def read(reply: Mapping[str, Any], wanted: int) -> list[Score]:
        scores = numbers(reply["data"][0])
        if not scores:
            raise Trouble(Cause.BROKEN, "the reply has no scores")
        if len(scores) > 1:
            raise FittestError(
                f"reward.model: {model} gives {len(scores)} labels; expected a reward model with one"
                if api == "classify"
                else f"reward.model: {model} gives {len(scores)} numbers for one token or response; expected a reward"
                " model with one"
            )
        return [scores[0]]

    return PairForm(f"/{api}", "data", dict, write, read, batch=1)


def _label_scores(item: Mapping[str, Any]) -> list[float | None] | None:
    return numbers_in(item.get("probs"))


def _pooled(item: Mapping[str, Any]) -> list[float | None] | None:
    """Returns the numbers of the response, or those of its last token where each token has some."""
    data = item.get("data")
    return numbers_in(data[-1] if isinstance(data, list) and data and isinstance(data[-1], list) else data)


def _score_form(model: str, batch: int) -> PairForm:
    """Many pairs per request, as two lists of equal length."""

    def write(pairs: Sequence[Pair]) -> bytes:
        prompts, responses = [prompt for prompt, _ in pairs], [response for _, response in pairs]
        # these two names are understood by every version of vLLM that has the path
        body = {"model": model, "text_1": prompts, "text_2": responses, "use_activation": False}
        return json.dumps(body).encode()

    def read(reply: Mapping[str, Any], wanted: int) -> list[Score]:
        data = reply["data"]
        if len(data) != wanted:
            raise Trouble(Cause.BROKEN, f"the reply has {len(data)} scores for {wanted} pairs")
        places = [item.get("index") for item in data]
        if sorted(place for place in places if isinstance(place, int)) == list(range(wanted)):
            data = sorted(data, key=lambda item: item["index"])
        scores = numbers_in([item.get("score", "none") for item in data])
        if scores is None:
            raise Trouble(Cause.BROKEN, "the reply has no scores")
        return list(scores)

    return PairForm("/score", "data", dict, write, read, batch)
