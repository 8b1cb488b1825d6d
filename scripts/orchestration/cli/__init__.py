"""The command line: one group of commands that are imported when they are used, and the one place that exits."""

import gc
import importlib
import os
import re
import sys
from contextlib import suppress
from typing import NoReturn

import click
from click.shell_completion import CompletionItem

import orchestration
from orchestration.console import Console
from orchestration.errors import ExitCode, OrchestrationError, Refused, UsageError
from orchestration.keys import nearest

COMMANDS = {
    "run": "orchestration.cli.run",
    "supervisor": "orchestration.cli.run",
    "loop": "orchestration.cli.run",
    "init": "orchestration.cli.setup",
    "doctor": "orchestration.cli.doctor",
    "config": "orchestration.cli.config",
    "status": "orchestration.cli.look",
    "route": "orchestration.cli.look",
    "logs": "orchestration.cli.logs",
    "retry": "orchestration.cli.operate",
    "skip": "orchestration.cli.operate",
    "stamp": "orchestration.cli.operate",
    "abandon": "orchestration.cli.operate",
    "takeover": "orchestration.cli.operate",
    "stop": "orchestration.cli.operate",
    "pause": "orchestration.cli.operate",
    "resume": "orchestration.cli.operate",
    "say": "orchestration.cli.say",
    "rescue": "orchestration.cli.rescue",
    "demo": "orchestration.cli.setup",
    "checklist": "orchestration.cli.agent",
}


class _Commands(click.Group):
    """The commands of COMMANDS; options without a command are `run`'s: `orchestrator --mode combined`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(COMMANDS[cmd_name]), cmd_name)
        return command if isinstance(command, click.Command) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        near = None if args[0] in COMMANDS else nearest(args[0], COMMANDS, cutoff=0.6)
        if near:
            raise click.UsageError(f"No such command '{args[0]}'. Did you mean {near}?", ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete run's options too, which need no command."""
        found = super().shell_complete(ctx, incomplete)
        run = self.get_command(ctx, "run")
        if run and incomplete.startswith("-"):
            found += run.shell_complete(click.Context(run, parent=ctx), incomplete)
        return list({item.value: item for item in found}.values())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in {"-h", "--help", "--version"}:
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(orchestration.__version__, message="orchestrator %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Two coding agents take turns on one git branch: galph plans and reviews, ralph implements.

    \b
    orchestrator init                    set up this repository (one commit)
    orchestrator doctor                  what a run would miss here, and what to type
    orchestrator --mode combined -n 5    run five iterations here
    orchestrator status                  whose turn, what happened, what is unusual

    Options without a command are those of `run`. Every command has --help.
    """  # noqa: D301 - click's mark for lines that are kept
    if context.invoked_subcommand is None:
        look = importlib.import_module("orchestration.cli.look")
        console = Console()
        look.show_if_there(console)
        console.say(context.get_help())


def main() -> NoReturn:
    """Run the program and exit: the one rim."""
    try:
        gc.set_threshold(20_000)  # modules are not garbage: their loading need not be searched for it
        code = execute(sys.argv[1:])
        with suppress(OSError, AttributeError, ValueError):
            sys.stderr.flush()
    except KeyboardInterrupt:  # just before or after the command
        code = ExitCode.INTERRUPTED
    os._exit(code)  # whatever had to be closed is; taking the modules apart only takes time


def execute(args: list[str]) -> int:
    """Run one command line and return its exit code; nothing but a bug's traceback file is left behind."""
    console = Console(as_json="--json" in args)
    try:
        require_posix(sys.platform)
        code = cli.main(args=args, prog_name="orchestrator", standalone_mode=False)
        with suppress(BrokenPipeError, AttributeError, ValueError):  # who has read enough; what was closed at the start
            sys.stdout.flush()
    except click.ClickException as raised:
        error = _command_first(raised, args)
        if "--json" in args:
            console.refuse(UsageError(error.format_message(), code="usage", remedy="`orchestrator COMMAND --help`"))
        else:
            error.show()
        return ExitCode.USAGE
    except (click.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    except OrchestrationError as error:
        console.refuse(error)
        return error.exit_code
    except OSError as error:
        refusal = OrchestrationError(
            f"the system refused: {error}", code="system", remedy="`orchestrator doctor` looks at disk and permissions"
        )
        console.refuse(refusal)
        return refusal.exit_code
    except Exception as error:  # noqa: BLE001 - the rim: a bug is told in one line and kept whole in a file
        console.refuse(importlib.import_module("orchestration.cli.bug").kept(error))
        return ExitCode.BUG
    return int(code or 0)


def _command_first(error: click.ClickException, args: list[str]) -> click.ClickException:
    """Return the error, with what to do where a command stands behind options, which were taken for run's."""
    stray = re.search(r"unexpected extra arguments? \((\w+)", error.message)
    if not isinstance(error, click.UsageError) or stray is None or stray[1] not in COMMANDS or stray[1] == args[0]:
        return error
    return click.UsageError(
        f"{error.message}; put the command first: `orchestrator {stray[1]} {args[0]} ...`", error.ctx
    )


def require_posix(platform: str) -> None:
    """Refuse a system without sessions and signals.

    Raises:
        Refused: on Windows.

    """
    if platform == "win32":
        raise Refused("Windows has no process sessions and signals", code="platform", remedy="use WSL")
