"""Provides the rewards of any HTTP service that speaks the small contract of docs/rewards.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fittest.evo.backends.endpoint import Endpoint
from fittest.evo.backends.openai_format import NOT_SERVED
from fittest.evo.errors import FittestError
from fittest.fitness.rewards.remote import Pair, PairForm, RemoteReward, Score, numbers_in


class HttpReward(RemoteReward):
    """Asks a service for the rewards of pairs: `{"pairs": [{"prompt": …, "response": …}, …]}` is posted to it.

    The reply is `{"rewards": [number or null, …]}`, in the order of the pairs; null says that a reward is missing. A
    service must be a function of each pair alone, since pairs share a request by chance.

    The fingerprint is `name`, and the model's name if one is given. Whoever changes the numbers of a service has to
    change its name too, as rewards in a journal are never asked for again.

    Args:
        url: the address of each service, complete with its path.
        name: identifies what the service computes.
        model: sent with each request as "model"; if None, it is left out.
        batch: the most pairs of one request.
        api_key_env: the environment variable that holds the key; if None, no key is sent.
        headers_env: more headers, and the environment variables that hold their values.
        extra_query: parameters that are added to each address.
        slots: requests in flight at once, all services together.
        timeout: seconds that one request may take.
        patience: seconds for which no service may answer before the run stops.
        max_reply_mib: the largest reply that is read, in MiB.

    Raises:
        FittestError: the key is not set, or aiohttp is not installed.
    """

    def __init__(
        self,
        *,
        url: Sequence[str],
        name: str = "http",
        model: str | None = None,
        batch: int = 16,
        api_key_env: str | None = None,
        headers_env: Mapping[str, str] | None = None,
        extra_query: Mapping[str, str] | None = None,
        slots: int = 16,
        timeout: float = 600.0,
        patience: float = 300.0,
        max_reply_mib: int = 16,
    ) -> None:
        # an address that ends in a slash must be asked with it: some services redirect or refuse it without
        form = _form(model, batch, path="/" if all(address.endswith("/") for address in url) else "")
        endpoint = Endpoint(
            section="reward",
            setting="reward.url",
            base_url=url,
            api_key_env=api_key_env,
            headers_env=headers_env,
            extra_query=extra_query,
            slots=slots,
            timeout=timeout,
            patience=patience,
            items=form.items,
            item=form.item,
            probe=form.probe,
            hint="",
            remedy=_remedy,
            counts_refusals=False,
            max_reply_mib=max_reply_mib,
        )
        super().__init__(f"http:{name}" if model is None else f"http:{name}:{model}", endpoint, form)


def _remedy(status: int, path: str, words: str, served: bool) -> str:
    if status in NOT_SERVED:
        return "does the service take POST requests at this very path?"
    return "the service should take pairs as docs/rewards.md says, and give null for a pair that it cannot score"


def _form(model: str | None, batch: int, *, path: str) -> PairForm:
    named = {} if model is None else {"model": model}

    def write(pairs: Sequence[Pair]) -> bytes:
        asked = [{"prompt": prompt, "response": response} for prompt, response in pairs]
        return json.dumps({**named, "pairs": asked}).encode()

    return PairForm(path, "rewards", object, write, _rewards, batch)


def _rewards(reply: Mapping[str, Any], wanted: int) -> list[Score]:
    # a reply of the wrong shape is a mistake in the service, which gives the same reply at every try
    given = reply["rewards"]
    if len(given) != wanted:
        raise FittestError(f"reward.url: the service gave {len(given)} rewards for {wanted} pairs; expected one each")
    rewards = numbers_in(given)
    if rewards is None:
        wrong = next(reward for reward in given if numbers_in([reward]) is None)
        raise FittestError(f"reward.url: the service gave the reward {wrong!r:.60}; expected a number, or null")
    return list(rewards)
