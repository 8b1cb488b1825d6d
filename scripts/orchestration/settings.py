"""Every option of the tool, declared once: type, default, flag and help (architecture.md, "Options").

The command line, the environment names, orchestration.yaml and its messages are all made from these fields.
"""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta, field

from orchestration.router import Mode
from orchestration.state import Actor


class Opt(msgspec.Struct, frozen=True):
    """What makes a field an option of `orchestrator run`: its flag, its help and what stands for its value there."""

    flag: str
    help: str
    metavar: str = "VALUE"


class Leftovers(StrEnum):
    """What happens to files that an actor left uncommitted and that no rule allows."""

    COMMIT = "commit"
    FAIL = "fail"
    KEEP = "keep"


Seconds = Annotated[float, Meta(gt=0, le=2_000_000)]
"""At most 23 days: longer is more than the system's select takes."""
Count = Annotated[int, Meta(ge=0)]
MiB = Annotated[float, Meta(gt=0)]
Rung = Annotated[str, Meta(pattern=r"^(SIG)?(TERM|INT|HUP|QUIT|USR1|USR2|KILL)( [0-9]{1,6}(\.[0-9]+)?)?$")]
"""A signal, and the seconds until the next one."""


class RouterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`router:` in orchestration.yaml."""

    enabled: Annotated[bool, Opt("--use-router/--no-router", "Route prompts, or run each actor's own.")] = True
    mode: Annotated[
        Mode, Opt("--router-mode", "How the override is used: router_default, router_first or router_only.", "MODE")
    ] = Mode.DEFAULT
    prompt: Annotated[str | None, Opt("--router-prompt", "Prompt whose answer names galph's prompt.", "PROMPT")] = None
    review_every_n: Annotated[
        Count, Opt("--router-review-every-n", "Galph reviews in every n-th iteration; 0 never.", "N")
    ] = 0
    allowlist: Annotated[list[str], Opt("--router-allowlist", "Prompts that may run at all.", "PROMPT,...")] = field(
        default_factory=list
    )


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`agent:` in orchestration.yaml: who runs which prompt."""

    default: Annotated[
        str | None, Opt("--agent", "Agent of both actors: `checklist`, a name under agents:, any executable.", "AGENT")
    ] = None
    roles: Annotated[dict[str, str], Opt("--agent-role", "Agent by actor.", "galph=AGENT,...")] = field(
        default_factory=dict
    )
    prompts: Annotated[dict[str, str], Opt("--agent-prompt", "Agent by prompt.", "PROMPT=AGENT,...")] = field(
        default_factory=dict
    )


class AgentDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """`agents.NAME:` in orchestration.yaml: a command line that reads the prompt on standard input."""

    command: list[str]
    timeout: Seconds | None = None
    idle_timeout: Seconds | None = None
    stop: Annotated[list[Rung], Meta(examples=['["INT 8", "TERM 4", "KILL"]'])] = field(
        default_factory=lambda: ["TERM 8", "KILL"]
    )


class ActorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`actors.galph:` and `actors.ralph:`."""

    leftovers: Leftovers = Leftovers.COMMIT
    scope: list[str] = field(default_factory=list)
    gates: list[str] = field(default_factory=list)
    timeout: Seconds | None = None


class ActorsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`actors:`; the supervisor must not write code, so galph's leftovers fail the turn."""

    galph: ActorSettings = field(default_factory=lambda: ActorSettings(leftovers=Leftovers.FAIL))
    ralph: ActorSettings = field(default_factory=ActorSettings)

    def of(self, actor: Actor) -> ActorSettings:
        """Return one actor's settings."""
        return self.galph if actor is Actor.GALPH else self.ralph


class SyncSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`sync:`: where the turn lives and how long to wait for it."""

    git: Annotated[
        bool, Opt("--git/--no-git", "Keep the turn in commits; or in the state file alone, needing no repository.")
    ] = True
    branch: Annotated[str | None, Opt("--branch", "Refuse to run on any other branch.", "NAME")] = None
    poll_interval: Annotated[
        Seconds, Opt("--poll-interval", "Between looks while waiting, where no file event can wake.", "SECONDS")
    ] = 5.0
    max_wait: Annotated[
        Seconds | None, Opt("--max-wait-sec", "Give up waiting after that long (exit 6); never cuts a turn.", "SECONDS")
    ] = None


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`limits:`."""

    iterations: Annotated[Count, Opt("--sync-loops", "Iterations to run, then stop; 0 without limit.", "N")] = 20
    turn_timeout: Seconds = 7200.0
    gate_timeout: Seconds = 1800.0
    interrupted_reruns: Count = 2
    snapshot_file: MiB = 100.0


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`logs:`; older runs of a branch beyond `keep` are deleted when a run begins, 0 keeps all."""

    keep: Count = 0


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """orchestration.yaml; paths are relative to its folder."""

    prompts_dir: str = "prompts"
    supervisor_prompt: Annotated[str, Opt("--prompt-supervisor", "Galph's own prompt.", "PROMPT")] = "supervisor.md"
    main_prompt: Annotated[str, Opt("--prompt-main", "Ralph's own prompt.", "PROMPT")] = "main.md"
    reviewer_prompt: Annotated[str, Opt("--prompt-reviewer", "The review's prompt.", "PROMPT")] = "reviewer.md"
    state_file: Annotated[str, Opt("--state-file", "Where the turn lives.", "FILE")] = "sync/state.json"
    logs_dir: Annotated[str, Opt("--logdir", "Where runs are recorded.", "FOLDER")] = "logs"
    allow_dirty: Annotated[bool, Opt("--allow-dirty", "Begin although tracked files are changed; they stay yours.")] = (
        False
    )
    tmp_dir: str = "tmp"
    input_file: str = "input.md"
    doc_whitelist: list[str] = field(
        default_factory=lambda: [
            "input.md",
            "galph_memory.md",
            "user_input.md",
            "docs/fix_plan.md",
            "plans/**/*.md",
            "prompts/**/*.md",
            ".gitignore",
            ".gitmodules",
            ".gitattributes",
        ]
    )
    report_path_globs: list[str] = field(default_factory=lambda: ["plans/active/**/reports/**", "reports/**"])
    report_extensions: list[str] = field(
        default_factory=lambda: [".md", ".txt", ".log", ".json", ".csv", ".png", ".svg", ".html"]
    )
    tracked_output_globs: list[str] = field(default_factory=list)
    tracked_output_extensions: list[str] = field(default_factory=list)
    router: RouterSettings = field(default_factory=RouterSettings)
    agent: AgentSettings = field(default_factory=AgentSettings)
    agents: dict[str, AgentDefinition] = field(default_factory=dict)
    actors: ActorsSettings = field(default_factory=ActorsSettings)
    sync: SyncSettings = field(default_factory=SyncSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    logs: LogSettings = field(default_factory=LogSettings)


IGNORED = {
    "spec_bootstrap": "the ancestor's bootstrap is not part of this tool",
    "findings_file": "agents find it through their prompts",
}
"""Keys of the ancestor's file that are accepted and have no effect, and why."""
