"""Says which engine serves which role: the policy answers, the proposer writes offspring, judge and auditor vote."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fittest.evo.records import Message, Request, Role

if TYPE_CHECKING:
    from fittest.evo.protocols import Backend


@dataclass(frozen=True, slots=True)
class Engine:
    """Holds an engine and how it is used in one role.

    Attributes:
        backend: generates the text.
        system: stands before each chat as a system message; it is empty if there is none.
        together: how many samples of one prompt go into one request, if the engine can do this; each takes a slot.
        begins_in_reasoning: whether its chat template opens the reasoning, which a reply then only closes.
    """

    backend: Backend
    system: str = ""
    together: int = 1
    begins_in_reasoning: bool = False

    def address(self, request: Request) -> Request:
        """Returns the request with the system prompt of the role.

        A raw text has no place for one, and stays as it is. A request with a system message of its own keeps it, after
        that of the role.

        Args:
            request: as the operator, the evaluation or the reward has written it.
        """
        if not self.system or request.prompt is not None:
            return request
        first, *others = request.messages
        own = [first.content] if first.role == "system" else []
        rest = others if own else request.messages
        system = Message("system", "\n\n".join([self.system, *own]))
        return replace(request, messages=(system, *rest))


@dataclass(frozen=True, slots=True)
class Engines:
    """Holds the engine of each role.

    Attributes:
        policy: answers the prompts.
        proposer: writes offspring; None lets the policy's engine write them, without its system prompt.
        judge: votes on answers; None lets the policy's engine vote, without its system prompt.
        auditor: votes for the reward that decides nothing; None if nobody is asked for that.
    """

    policy: Engine
    proposer: Engine | None = None
    judge: Engine | None = None
    auditor: Engine | None = None

    @property
    def roles(self) -> list[Role]:
        """Returns the roles that are served."""
        roles: list[Role] = ["policy", "proposer", "judge", "auditor"]
        return roles if self.auditor else roles[:-1]

    def of(self, role: Role) -> Engine:
        """Returns the engine that serves a role."""
        own: Engine | None = getattr(self, role)
        return own or replace(self.policy, system="")

    def audited(self) -> Engines:
        """Returns the engines with one that votes for an audit, which is the policy's if it has none of its own."""
        return self if self.auditor else replace(self, auditor=replace(self.policy, system=""))

    @property
    def by_role(self) -> dict[Role, Engine]:
        """Returns the engines by role, without the roles that share the policy's engine."""
        found: dict[Role, Engine] = {"policy": self.policy}
        if self.proposer is not None:
            found["proposer"] = self.proposer
        if self.judge is not None:
            found["judge"] = self.judge
        if self.auditor is not None and self.auditor.backend is not self.policy.backend:
            found["auditor"] = self.auditor
        return found
