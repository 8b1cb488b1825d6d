"""Which prompt a turn runs: a pure function of state, configuration and override."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import PurePosixPath

import msgspec

from orchestration.errors import UsageError
from orchestration.state import Actor


class RouteError(UsageError):
    """No prompt may run: inside a turn it fails the turn, before one it is a usage error."""


class Mode(StrEnum):
    """How a router prompt's choice and the deterministic one meet."""

    DEFAULT = "router_default"
    FIRST = "router_first"
    ONLY = "router_only"


class Source(StrEnum):
    """What decided."""

    ACTOR = "actor"
    REVIEW = "review"
    OVERRIDE = "override"


class Routes(msgspec.Struct, frozen=True, kw_only=True):
    """The part of the configuration that the router reads; every name is normalised."""

    supervisor: str = "supervisor.md"
    main: str = "main.md"
    reviewer: str = "reviewer.md"
    router: str | None = None
    prompts_dir: str = "prompts"
    enabled: bool = True
    mode: Mode = Mode.DEFAULT
    review_every_n: int = 0
    allowlist: Sequence[str] = ()

    @property
    def allowed(self) -> tuple[str, ...]:
        """The prompts that may run at all; by default the configured ones."""
        return tuple(self.allowlist) or (self.supervisor, self.main, self.reviewer)

    def unlisted(self, prompts: Sequence[str]) -> list[str]:
        """Return those of the prompts that the allowlist keeps from running, where they would."""
        chosen = (self.supervisor, self.reviewer) if self.router and self.mode is not Mode.DEFAULT else ()
        free = (*self.allowed, self.router, *(name for name in chosen if name != self.main))
        return [name for name in prompts if self.enabled and name not in free]

    def own(self, actor: Actor) -> str:
        """Return the prompt that is this actor's own."""
        return self.supervisor if actor is Actor.GALPH else self.main


class Decision(msgspec.Struct, frozen=True):
    """The prompt of one turn, and why."""

    prompt: str
    source: Source
    reason: str


def normalise(name: str, prompts_dir: str = "prompts") -> str:
    """Return a prompt's name below the prompts folder: `main`, `main.md` and `prompts/main.md` are one.

    Raises:
        RouteError: for an absolute path or one that leaves the folder.

    """
    path = PurePosixPath(name.strip())
    strange = not path.parts or any(part == ".." or part != part.strip() for part in path.parts)
    if strange or path.is_absolute() or "\\" in name or "\0" in name:
        raise RouteError(
            f"the prompt {name!r} does not lie below {prompts_dir}/",
            code="route-escape",
            remedy=f"name a file below {prompts_dir}/, such as `main.md` or `team/main.md`",
        )
    folder = PurePosixPath(prompts_dir)
    if path.is_relative_to(folder) and path != folder:
        path = path.relative_to(folder)
    return str(path if path.suffix == ".md" else path.with_name(f"{path.name}.md"))


def wants_override(routes: Routes, actor: Actor) -> bool:
    """Tell whether a router prompt runs before this turn: on galph's turn only, in every mode."""
    return routes.enabled and actor is Actor.GALPH and (routes.router is not None or routes.mode is Mode.ONLY)


def _plain(routes: Routes, actor: Actor, iteration: int) -> Decision:
    every = routes.review_every_n
    if routes.enabled and actor is Actor.GALPH and every > 0 and iteration % every == 0:
        return Decision(routes.reviewer, Source.REVIEW, f"review: iteration {iteration} is a multiple of {every}")
    off = "" if routes.enabled else " (the router is off)"
    return Decision(routes.own(actor), Source.ACTOR, f"{actor}'s own prompt{off}")


_LONGEST = 1 << 10
"""Characters of a line that may name a prompt."""
_QUOTED = 100
"""Characters of an answer that a message quotes."""


def _chosen(text: str | None, routes: Routes) -> str:
    lines = (text or "").strip().splitlines()
    if len(lines) != 1 or len(lines[0]) > _LONGEST:
        much = f"{len(lines)} lines" if len(lines) > 1 else "a line that is too long"
        said = f"{much}, which begin{'s' * (len(lines) == 1)} with {lines[0][:_QUOTED]!r}" if lines else "nothing"
        raise RouteError(
            f"the router prompt must answer with one line that names a prompt; it said {said}; "
            f"the allowlist: {', '.join(routes.allowed)}",
            code="route-no-choice",
            remedy="sharpen the prompt that `router.prompt` names, or unset `router.prompt`",
        )
    return lines[0].strip().strip("`\"'")


def _admit(decision: Decision, routes: Routes, actor: Actor, exists: Callable[[str], bool]) -> Decision:
    """Apply allowlist, actor gating and existence; the router off leaves only existence."""
    said = f"{decision.prompt!r} ({decision.reason})"
    if routes.enabled and decision.prompt not in routes.allowed:
        raise RouteError(
            f"the prompt {said} is not on the allowlist: {', '.join(routes.allowed)}",
            code="route-unlisted",
            remedy="add it to `router.allowlist`, or choose a listed one",
        )
    gate = (routes.own(actor), routes.reviewer)
    if routes.enabled and decision.prompt not in gate:
        raise RouteError(
            f"the prompt {said} is not {actor}'s to run; {actor} runs {' or '.join(gate)}",
            code="route-gated",
            remedy="choose one of these, or change `supervisor_prompt`, `main_prompt` or `reviewer_prompt`",
        )
    if not exists(decision.prompt):
        raise RouteError(
            f"the prompt file {said} does not exist; the allowlist: {', '.join(routes.allowed)}",
            code="route-missing-file",
            remedy="create it below `prompts_dir`, or correct the setting that names it",
        )
    return decision


def route(
    actor: Actor, iteration: int, routes: Routes, override: str | None, exists: Callable[[str], bool]
) -> Decision:
    """Return the prompt of this turn.

    Args:
        actor: whose turn it is.
        iteration: the state's iteration, from 1.
        routes: the router's configuration.
        override: the final text of the router prompt if it ran, else None.
        exists: tells whether a normalised prompt name has a file.

    Raises:
        RouteError: nothing may run; the message names the value, the list and the setting.

    """
    plain = _plain(routes, actor, iteration)
    if not wants_override(routes, actor):
        return _admit(plain, routes, actor, exists)
    if routes.router is None:
        raise RouteError(
            f"`router.mode` is {routes.mode}, but no `router.prompt` is set to choose",
            code="route-no-router",
            remedy="set `router.prompt`, or set `router.mode` to router_default",
        )
    if routes.mode is Mode.DEFAULT:
        _admit(plain, routes, actor, exists)  # the deterministic choice comes first and must stand by itself
    prompt = normalise(_chosen(override, routes), routes.prompts_dir)
    return _admit(Decision(prompt, Source.OVERRIDE, f"chosen by {routes.router}"), routes, actor, exists)
