"""`init` and `demo`: the first minute."""

import shlex
import shutil
import sys
from pathlib import Path

import click

from orchestration import decisions, scaffold
from orchestration import demo as sample
from orchestration.cli.operate import post
from orchestration.cli.options import Here, anywhere, json_option
from orchestration.cli.schedule import Planned, scheduled, show
from orchestration.clock import SystemClock
from orchestration.config import resolve
from orchestration.console import Console
from orchestration.errors import ExitCode
from orchestration.layers import FILE, from_pairs


@click.command()
@click.option("--no-commit", is_flag=True, help="Write the files and leave the commit to you.")
@click.option("--adopt", is_flag=True, help="Take over the state that this branch has from another, in one commit.")
@click.option("--undo", is_flag=True, help="Remove what init wrote and nobody changed, in one commit.")
@scheduled
@anywhere
@json_option
def init(*, place: Here, no_commit: bool, adopt: bool, undo: bool, planned: Planned, as_json: bool) -> int:
    """Set up this repository, in one commit.

    Writes configuration, prompts and state, and commits exactly these. Nothing is overwritten, no hook runs, and what
    you have staged stays staged.

    With --cron or --systemd it sets up nothing, and prints what runs a turn of this project now and then.
    """
    console = Console(as_json=as_json)
    if adopt + undo + no_commit + planned.cron + (planned.systemd is not None) > 1:
        raise click.UsageError("--adopt, --undo, --no-commit, --cron and --systemd exclude each other")
    if planned.asked():
        show(place, console, planned, as_json=as_json)
        return 0
    if adopt:
        return post(place, decisions.adopt, as_json=as_json)
    if undo:
        done = scaffold.undo(place.workspace, place.resolved.config, SystemClock())
    else:
        done = scaffold.init(place.workspace, place.resolved.config, SystemClock(), commit=not no_commit)
    if as_json:
        facts = done._asdict()
        console.dump({"removed": facts.pop("written"), **facts} if undo else facts)
        return 0
    console.say(f"the project in {place.workspace.root}")
    _tell(console, done, undo=undo)
    if not undo:
        root = place.workspace.root
        default = resolve(root / FILE, {}, {}, root).config.agent.default
        if default and FILE in done.written:
            console.say(f"{default} is the default agent (agent.default), since it was found installed")
        console.say(_next_steps(committed=not no_commit, agent="" if default else " --agent ./my-agent.sh"))
    return 0


def _tell(console: Console, done: scaffold.Scaffold, *, undo: bool) -> None:
    """Print what was done to which file."""
    for path in done.written:
        console.say(f"  {'removed' if undo else 'wrote'}  {path}")
    for path in done.kept:
        console.say(f"  kept   {path}")
    console.say(f"committed as {done.commit[:10]}" if done.commit else "nothing was committed")
    for name in done.rules:
        console.say(f"{name} stays as it is: the prompts tell both agents to read it first")


def _next_steps(*, committed: bool, agent: str) -> str:
    steps = {
        f"orchestrator doctor{agent}": "is everything there that a run needs?",
        f"orchestrator --mode combined -n 2{agent}": "any executable that reads a prompt"
        if agent
        else "two iterations",
        "orchestrator status": "whose turn it is, and what is unusual",
    }
    if not committed:
        steps = {"orchestrator init": "commits what was just written", **steps}
    width = max(map(len, steps)) + 3
    return "next:\n" + "\n".join(f"  {step:<{width}}{why}" for step, why in steps.items())


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("-c", "pairs", metavar="KEY.PATH=VALUE", multiple=True, help="Any setting for this run.")
@json_option
@click.option("--two-machines", is_flag=True, help="In two clones of a bare remote, a daemon in each, both shown.")
@click.option("-q", "--quiet", is_flag=True, help="Print failures and the end only.")
def demo(*, folder: Path | None, pairs: tuple[str, ...], two_machines: bool, as_json: bool, quiet: bool) -> int:
    """Show the loop on a small real project.

    With the built-in agent: no model, no network, under a minute.
    The project is made in FOLDER (default: ./galph-demo) and kept.
    """
    place = (folder or sample.free_folder(Path.cwd())).resolve()
    console = Console(as_json=as_json, quiet=quiet)
    if not as_json:
        console.say(f"a sample project in {place}: a package with failing tests and a plan of four tasks")
    given = from_pairs(list(pairs))  # wrong ones are refused before anything is made
    if two_machines:
        silent = Console(quiet=True) if as_json or quiet else console
        shown = sample.run_two(place, silent, SystemClock(), pairs)
        place /= "galph"
    else:
        shown = sample.run(place, console, SystemClock(), given)
    if as_json:
        console.dump({**shown._asdict(), "folder": str(place)}, indent=None)
    else:
        console.say(_told(place, shown, two_machines=two_machines))
    return shown.ended.exit_code or (ExitCode.OK if shown.after.green else ExitCode.TURN_FAILED)


def _told(place: Path, shown: sample.Shown, *, two_machines: bool) -> str:
    program = "orchestrator" if shutil.which("orchestrator") else str(Path(sys.argv[0]).resolve())
    runs = [f"{program} --mode combined -n 2 --agent ./my-agent.sh"]
    if two_machines:
        runs = [f"{program} --role {actor} --agent ./my-agent.sh" for actor in ("galph", "ralph")]
        runs[1] += "   # in another clone, on another machine"
    then = "\n  ".join(runs)
    return f"""
{shown.ended.turns} turns, {shown.commits} commits
tests     before: {shown.before.verdict} · after: {shown.after.verdict}
project   {place}
history   git -C {shlex.quote(str(place))} log --oneline
logs      {place}/logs/{sample.BRANCH}/latest/summary.md

In your own repository:
  {program} init
  {program} doctor --agent ./my-agent.sh
  {then}
  {program} status"""
