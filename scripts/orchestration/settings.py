"""Every option of the tool, declared once: type, default, flag and help (docs/architecture.md).

The command line, the environment names, orchestration.yaml and its messages are all made from these fields.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta, field

from orchestration.router import Mode
from orchestration.state import Actor


class Opt(msgspec.Struct, frozen=True):
    """What a person is told of a setting, and its flag of `orchestrator run` if it has one.

    Args:
        flag: `--name`, `--name/--no-name`; None for a setting of the file, the environment and `-c` alone.
        help: one line, the same in `run --help`, in the schema and in docs/configuration.md.
        metavar: what stands for the value in the help.
        aliases: other words for a value, or for a map's keys, and what they mean.

    """

    flag: str | None = None
    help: str = ""
    metavar: str = "VALUE"
    aliases: Mapping[str, str] = {}


class Leftovers(StrEnum):
    """What happens to files that an actor left uncommitted and that no rule allows."""

    COMMIT = "commit"
    FAIL = "fail"
    KEEP = "keep"


Seconds = Annotated[float, Meta(gt=0, le=2_000_000)]
"""At most 23 days: longer is more than the system's select takes."""
Pause = Annotated[float, Meta(ge=0, le=2_000_000)]
Count = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Turns = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Tokens = Annotated[int, Meta(ge=1, le=1_000_000_000_000)]
Dollars = Annotated[float, Meta(gt=0, le=1_000_000)]
MiB = Annotated[float, Meta(gt=0, le=1_000_000)]
Rung = Annotated[
    str,
    Meta(
        pattern=r"^(SIG)?(TERM|INT|HUP|QUIT|USR1|USR2|KILL)( [0-9]{1,6}(\.[0-9]+)?)?(?!\n)$",
        extra={"expected": "a signal and the seconds until the next"},
    ),
]
"""A signal, and the seconds until the next one."""
Inside = Annotated[
    str,
    Meta(
        pattern=r"^(?![\s\S]*[\x00-\x1f])(?!/)(?!(.*/)?\.\.(/|$))(?=.*([^./]|\.\.\.))",
        extra={"expected": "a relative path below the project's folder"},
    ),
]
"""Not absolute, no `..`, at least one name."""
Prompt = Annotated[
    str,
    Meta(
        pattern=r"^(?![\s\S]*[\x00-\x1f\\])(?!\s*/)(?!(.*/)?\s*\.\.\s*(/|$))(?!.*(\s/|/\s+\S))(?=.*([^./\s]|\.\.\.))",
        extra={"expected": "the name of a file below prompts/"},
    ),
]
"""What `router.normalise` takes."""
Argv = Annotated[list[str], Meta(min_length=1)]
Variable = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(?!\n)$", extra={"expected": "the name of an environment variable"}),
]
Plain = Annotated[str, Meta(pattern=r"^[^\x00]*(?!\n)$", extra={"expected": "text on one line"})]
"""What a variable can hold."""

_MODES = {f"{stem}{mode.removeprefix('router_')}": str(mode) for mode in Mode for stem in ("", "router-")}
_ROLES = {"supervisor": str(Actor.GALPH), "loop": str(Actor.RALPH), "main": str(Actor.RALPH)}


class RouterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Which prompt a turn runs.

    Galph runs the supervisor's prompt, ralph the main one. Every `review_every_n`-th iteration galph reviews instead. A
    `router.prompt` may choose galph's prompt by its answer; ralph's is always its own.
    """

    enabled: Annotated[bool, Opt("--use-router/--no-router", "Route prompts, or run each actor's own.")] = True
    mode: Annotated[
        Mode,
        Opt(
            "--router-mode",
            "How the override is used: router_default, router_first or router_only.",
            "MODE",
            aliases=_MODES,
        ),
    ] = Mode.DEFAULT
    prompt: Annotated[Prompt | None, Opt("--router-prompt", "Prompt whose answer names galph's prompt.", "PROMPT")] = (
        None
    )
    review_every_n: Annotated[
        Count, Opt("--router-review-every-n", "Galph reviews in every n-th iteration; 0 never.", "N")
    ] = 0
    allowlist: Annotated[list[Prompt], Opt("--router-allowlist", "Prompts that may run at all.", "PROMPT,...")] = field(
        default_factory=list
    )


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Who runs which prompt.

    An agent is a name under `agents:`, a preset (`claude`, `codex`), the built-in `checklist`, or any executable that
    reads a prompt on standard input and ends with 0. The agent of the prompt goes before the agent of the actor, and
    that before the default. `auto` is the first preset that is installed.
    """

    default: Annotated[
        str | None,
        Opt(
            "--agent",
            "Agent of both actors: a preset, `auto`, `checklist`, a name under agents:, any executable.",
            "AGENT",
        ),
    ] = None
    roles: Annotated[dict[Actor, str], Opt("--agent-role", "Agent by actor.", "galph=AGENT,...", aliases=_ROLES)] = (
        field(default_factory=dict)
    )
    prompts: Annotated[dict[Prompt, str], Opt("--agent-prompt", "Agent by prompt.", "PROMPT=AGENT,...")] = field(
        default_factory=dict
    )


class AgentDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """Command lines by name, for `agent:` to choose from.

    Each reads the prompt on standard input. Relative programs with a `/` are relative to the project's folder. One with
    the name of a preset, or with a `preset`, needs no command: what is not set here is the preset's. What it prints is
    understood, so its limits, errors, cost and final text are known; of any other, only the exit code is.
    """

    command: Annotated[
        Argv | None,
        Opt(help="Program and arguments, instead of its preset's; no shell reads them."),
        Meta(examples=[["./agent.sh"]]),
    ] = None
    preset: Annotated[str | None, Opt(help="The preset whose output it prints; unset: the one of its own name.")] = None
    model: Annotated[Plain | None, Opt(help="The model that it is to use (presets).")] = None
    max_turns: Annotated[Turns | None, Opt(help="Turns of its own that it may take (presets, where it can).")] = None
    budget_usd: Annotated[Dollars | None, Opt(help="US dollars that it may spend (presets, where it can).")] = None
    wrap: Annotated[
        list[str],
        Opt(help="A sandbox's program and arguments, which its command follows."),
        Meta(examples=[["docker", "run", "--rm", "-i", "image"]]),
    ] = field(default_factory=list)
    env: Annotated[dict[Variable, Plain], Opt(help="Environment variables that it is given.")] = field(
        default_factory=dict
    )
    env_optional: Annotated[
        list[Variable], Opt(help="Environment variables that it inherits besides its preset's (presets).")
    ] = field(default_factory=list)
    fallback: Annotated[
        str | None, Opt(help="The agent that takes its turn over when its limit or its login ends (presets).")
    ] = None
    timeout: Annotated[Seconds | None, Opt(help="Seconds that it may run, instead of its actor's.")] = None
    idle_timeout: Annotated[
        Seconds | None, Opt(help="Seconds without progress until it is ended; unset: its preset's, or no limit.")
    ] = None
    exit_grace: Annotated[
        Seconds | None, Opt(help="Seconds that it may take to exit when it has said how it went (presets).")
    ] = None
    stop: Annotated[
        list[Rung] | None,
        Opt(
            help="How it is ended: signals, each with the seconds until the next; unset: its preset's, or TERM 8, KILL."
        ),
        Meta(examples=[["INT 8", "TERM 4", "KILL"]]),
    ] = None


class ActorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One actor's rules."""

    leftovers: Annotated[
        Leftovers, Opt(help="Files that it leaves uncommitted and no rule allows: commit, fail the turn, or keep.")
    ] = Leftovers.COMMIT
    scope: Annotated[
        list[str], Opt(help="The only paths that its turn may change: gitignore-style globs; empty: anywhere.")
    ] = field(default_factory=list)
    gates: Annotated[list[str], Opt(help="Shell commands that must pass after its agent, in order.")] = field(
        default_factory=list
    )
    timeout: Annotated[Seconds | None, Opt(help="Seconds of its turn, instead of limits.turn_timeout.")] = None


class ActorsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What each actor may do.

    The supervisor must not write code, so files that galph leaves uncommitted fail the turn; ralph's are committed.
    Whatever the rule, their bytes are in a rescue ref first.
    """

    galph: ActorSettings = field(default_factory=lambda: ActorSettings(leftovers=Leftovers.FAIL))
    ralph: ActorSettings = field(default_factory=ActorSettings)

    def of(self, actor: Actor) -> ActorSettings:
        """Return one actor's settings."""
        return self.galph if actor is Actor.GALPH else self.ralph


class Stale(StrEnum):
    """What is done about a peer whose lease has run out."""

    WAIT = "wait"
    STANDBY = "standby"


class SkipCI(StrEnum):
    """Which state commits ask CI services to let them pass."""

    CLAIMS = "claims"
    ALL = "all"
    NONE = "none"


class SyncSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the turn lives, and how long to wait for it."""

    git: Annotated[
        bool, Opt("--git/--no-git", "Keep the turn in commits; or in the state file alone, needing no repository.")
    ] = True
    via_git: Annotated[
        bool | None,
        Opt("--sync-via-git/--no-sync-via-git", "Share the turn through the remote; unset: as the last turn was."),
    ] = None
    remote: Annotated[str, Opt(help="The remote, by name, through which the turn is shared.")] = "origin"
    branch: Annotated[str | None, Opt("--branch", "Refuse to run on any other branch.", "NAME")] = None
    poll_interval: Annotated[
        Seconds, Opt("--poll-interval", "Between looks while waiting, where no file event can wake.", "SECONDS")
    ] = 5.0
    max_wait: Annotated[
        Seconds | None,
        Opt(
            "--max-wait-sec",
            "Give up waiting for the peer (exit 6) or the remote (exit 5); never cuts a turn.",
            "SECONDS",
        ),
    ] = None
    heartbeat: Annotated[Seconds, Opt(help="Seconds between signs of life during a turn.")] = 120.0
    lease: Annotated[Seconds, Opt(help="Seconds without one after which a peer counts as gone.")] = 600.0
    stale: Annotated[
        Stale,
        Opt(help="When its signs of life end: wait for a person, or, as a standby, take the turn over."),
    ] = Stale.WAIT
    skip_ci: Annotated[SkipCI, Opt(help="Which state commits carry [skip ci]: claims, all or none.")] = SkipCI.CLAIMS
    push_rescue: Annotated[
        bool, Opt(help="Publish the commits of a turn that was taken away, as a rescue ref at the remote.")
    ] = False


class PromptSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What prompts are told beside what they say."""

    context: Annotated[
        bool, Opt(help="End each actor's prompt with its iteration, the other's last commits, the reports, word left.")
    ] = True


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run ends, and where a turn does."""

    iterations: Annotated[
        Count, Opt("--sync-loops", "Iterations (--role: turns) to run, then stop; 0: no limit.", "N")
    ] = 20
    turn_timeout: Annotated[Seconds, Opt(help="Seconds until a turn's agent is ended and the turn fails.")] = 7200.0
    gate_timeout: Annotated[Seconds, Opt(help="Seconds until a gate is ended and fails the turn.")] = 1800.0
    attempts: Annotated[
        Turns, Opt(help="Attempts of a turn's agent whose provider is slow, in trouble or out of reach; then it fails.")
    ] = 5
    max_limit_sleep: Annotated[
        Seconds, Opt(help="Seconds for which an agent's limit, or a lost network, is waited out at most.")
    ] = 28800.0
    no_progress_turns: Annotated[
        Count, Opt(help="Turns of presets in a row that may succeed and change nothing; 0: any number.")
    ] = 3
    turn_cost: Annotated[Dollars | None, Opt(help="US dollars of one turn, where its agents tell.")] = None
    run_cost: Annotated[Dollars | None, Opt(help="US dollars of one run, where its agents tell.")] = None
    day_cost: Annotated[Dollars | None, Opt(help="US dollars of one day (UTC), where agents tell.")] = 25.0
    turn_tokens: Annotated[Tokens | None, Opt(help="Tokens read and written in one turn.")] = None
    run_tokens: Annotated[Tokens | None, Opt(help="Tokens read and written in one run.")] = None
    day_tokens: Annotated[
        Tokens | None, Opt(help="Tokens read and written in one day (UTC) by agents that tell no cost.")
    ] = 50_000_000
    interrupted_reruns: Annotated[
        Count, Opt(help="How often a turn runs again after the daemon died in it; then it fails.")
    ] = 2
    snapshot_file: Annotated[MiB, Opt(help="MiB of a file above which it is not kept in a rescue ref.")] = 100.0
    snapshot_interval: Annotated[
        Pause, Opt(help="Seconds after which the files are kept anew while an agent runs; 0: never.")
    ] = 600.0
    publish_file: Annotated[
        MiB, Opt(help="MiB of a file above which its turn fails: hosts warn at 50 and refuse at 100.")
    ] = 50.0
    secrets: Annotated[list[str], Opt(help="Files that may hold what looks like a token: gitignore-style globs.")] = (
        field(default_factory=list)
    )


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of runs, and what of their output."""

    keep: Annotated[
        Count, Opt(help="Runs of a branch to keep; older ones are deleted when a run begins. 0 keeps all.")
    ] = 0
    mask: Annotated[
        bool, Opt(help="Hide secrets in what agents and gates print: known tokens, the environment's own.")
    ] = True


class NotifySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Who is told of a run's end while nobody looks.

    The command is run when a turn has failed, a limit is reached, the run is finished or was stopped, or a person is
    needed. It finds the facts in ORCH_NOTIFY_EVENT and its like, and as one JSON object on its standard input.
    """

    command: Annotated[
        list[str],
        Opt(help="Program and arguments, run at a run's end; no shell reads them. None: nobody is told."),
        Meta(examples=[["./tell-me.sh"]]),
    ] = field(default_factory=list)


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Prompts, files, and which leftovers may be committed for an actor.

    Paths are relative to the folder of orchestration.yaml, and prompts to `prompts_dir`. A file is committed as a
    document, as a report, or as a tracked output; what no list names is a matter of `actors`.
    """

    prompts_dir: Annotated[Inside, Opt(help="Where the prompts lie.")] = "prompts"
    supervisor_prompt: Annotated[Prompt, Opt("--prompt-supervisor", "Galph's own prompt.", "PROMPT")] = "supervisor.md"
    main_prompt: Annotated[Prompt, Opt("--prompt-main", "Ralph's own prompt.", "PROMPT")] = "main.md"
    reviewer_prompt: Annotated[Prompt, Opt("--prompt-reviewer", "The review's prompt.", "PROMPT")] = "reviewer.md"
    state_file: Annotated[Inside, Opt("--state-file", "Where the turn lives.", "FILE")] = "sync/state.json"
    logs_dir: Annotated[Inside, Opt("--logdir", "Where runs are recorded.", "FOLDER")] = "logs"
    allow_dirty: Annotated[
        bool, Opt("--allow-dirty", "Begin although tracked files are changed; what an agent touches is kept first.")
    ] = False
    tmp_dir: Annotated[Inside, Opt(help="Scratch files of agents; never committed.")] = "tmp"
    input_file: Annotated[Inside, Opt(help="What galph writes for ralph.")] = "input.md"
    doc_whitelist: Annotated[list[str], Opt(help="Documents that are committed for an actor: globs.")] = field(
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
    report_path_globs: Annotated[list[str], Opt(help="Where reports lie that are committed: globs.")] = field(
        default_factory=lambda: ["plans/active/**/reports/**", "reports/**"]
    )
    report_extensions: Annotated[list[str], Opt(help="How the names of such reports end.")] = field(
        default_factory=lambda: [".md", ".txt", ".log", ".json", ".csv", ".png", ".svg", ".html"]
    )
    tracked_output_globs: Annotated[
        list[str], Opt(help="Tracked files whose changes are committed, such as test data: globs.")
    ] = field(default_factory=list)
    tracked_output_extensions: Annotated[
        list[str], Opt(help="How the names of such tracked files end; none: any ending.")
    ] = field(default_factory=list)
    router: RouterSettings = field(default_factory=RouterSettings)
    agent: AgentSettings = field(default_factory=AgentSettings)
    agents: dict[str, AgentDefinition] = field(default_factory=dict)
    actors: ActorsSettings = field(default_factory=ActorsSettings)
    sync: SyncSettings = field(default_factory=SyncSettings)
    prompts: PromptSettings = field(default_factory=PromptSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    logs: LogSettings = field(default_factory=LogSettings)
    notify: NotifySettings = field(default_factory=NotifySettings)

    @property
    def environments(self) -> list[dict[str, str]]:
        """What it gives agents beside the environment that they inherit."""
        return [agent.env for agent in self.agents.values()]


IGNORED = {
    "spec_bootstrap": "the ancestor's bootstrap is not part of this tool",
    "findings_file": "agents find it through their prompts",
}
"""Keys of the ancestor's file that are accepted and have no effect, and why."""
