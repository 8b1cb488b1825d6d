"""The built-in agent: no model, no network, real work.

It works off docs/fix_plan.md: as galph it names the next task in input.md, as ralph it does the task and commits, as
reviewer it runs every ticked task's check again. A task:

    - [ ] T2: what is to be done
      depends: T1
      ```sh
      the commands that do it
      ```
      check: the command that proves it
"""

import json
import re
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

import git

from orchestration import files
from orchestration.clock import SystemClock
from orchestration.config import resolve, routes
from orchestration.environment import for_agent, inherited
from orchestration.layers import FILE
from orchestration.process import Completed, Loop, Request
from orchestration.settings import Config
from orchestration.state import Actor

PLAN = Path("docs/fix_plan.md")
HISTORY = "## Attempts History"
REVIEW = Path("user_input.md")

_HOW = """: this agent does what is written there, item for item, such as
- [ ] T1: Say hello
  ```sh
  echo hello > hello.txt
  ```
  check: `test -f hello.txt`
"""
_ITEM = re.compile(r"^- \[(?P<tick>[ xX])\] (?P<id>[\w.-]+): (?P<title>.+)$")
_DO_NOW = re.compile(r"^Do Now: (?P<id>[\w.-]+)", re.MULTILINE)


class TaskError(Exception):
    """The plan or a task of it cannot be worked off; the message is the agent's last word."""


@dataclass
class Task:
    """One item of the plan; `line` is where it stands, from 0."""

    id: str
    title: str
    done: bool
    line: int
    depends: list[str] = field(default_factory=list)
    script: list[str] = field(default_factory=list)
    check: str | None = None


def parse(text: str) -> list[Task]:
    """Read the tasks of a plan.

    Raises:
        TaskError: an id stands twice, or a dependency is unknown.

    """
    tasks: list[Task] = []
    fence = False
    for number, line in enumerate(text.splitlines()):
        item = _ITEM.match(line)
        if item and not fence:
            tasks.append(Task(item["id"], item["title"].strip(), item["tick"] != " ", number))
        elif tasks:
            fence = _read_detail(tasks[-1], line.strip(), line, fence=fence)
    known = [task.id for task in tasks]
    for task in tasks:
        unknown = [name for name in task.depends if name not in known]
        if unknown or known.count(task.id) > 1:
            wrong = f"depends on {', '.join(unknown)}, which is not in the plan" if unknown else "stands twice"
            raise TaskError(f"{PLAN}:{task.line + 1}: {task.id} {wrong}")
    return tasks


def _read_detail(task: Task, word: str, line: str, *, fence: bool) -> bool:
    """Read a line below an item; return whether a fenced block is open after it."""
    if word.startswith("```"):
        return not fence
    if fence:
        task.script.append(line.removeprefix("  "))
    elif word.startswith("depends:"):
        task.depends = [name for name in re.split(r"[,\s]+", word.removeprefix("depends:")) if name]
    elif word.startswith("check:"):
        task.check = word.removeprefix("check:").strip().strip("`")
    return fence


class Checklist:
    """The agent in one project folder."""

    def __init__(self, config: Config, loop: Loop, environment: dict[str, str]) -> None:
        self._config = config
        self._loop = loop
        self._environment = environment
        self._text = PLAN.read_text(encoding="utf-8")
        self.tasks = parse(self._text)

    # --- the three parts it plays ------------------------------------------------------------------------------------

    def plan(self) -> str:
        """Name the first open task whose dependencies are done; with none left, set the exit flag."""
        done = {task.id for task in self.tasks if task.done}
        ready = [task for task in self.tasks if not task.done and set(task.depends) <= done]
        if ready:
            task = ready[0]
            Path(self._config.input_file).write_text(_assignment(task), encoding="utf-8")
            return f"Assigned {task.id}: {task.title}."
        left = [task.id for task in self.tasks if not task.done]
        if left:
            raise TaskError(f"{', '.join(left)} wait for each other: no task can begin")
        reason = f"all {len(self.tasks)} tasks of {PLAN} are done"
        self._ask_to_exit(reason)
        return f"Nothing is left: {reason}."

    def implement(self) -> str:
        """Do the task that input.md names, prove it, tick it and commit."""
        task = self._assigned()
        if task.done and not self._plan_is_changed():
            return f"{task.id} was done already."
        if not task.done:
            self._sh("\n".join(task.script), f"the block of {task.id}")
            if task.check:
                self._sh(task.check, f"the check of {task.id}")
            self._tick(task, done=True)
            self._note(f"{task.id}: done" + (f", proved by `{task.check}`" if task.check else ""))
            self._save()
        self._commit(f"{task.id}: {task.title}" + (f" (tests: {task.check})" if task.check else ""))
        return f"Did {task.id}: {task.title}."

    def review(self) -> str:
        """Run every ticked task's check again, untick what fails, report to user_input.md, and plan on."""
        failed = [task for task in self.tasks if task.done and task.check and self._run(task.check).code != 0]
        checked = sum(1 for task in self.tasks if task.done and task.check)
        for task in failed:
            self._tick(task, done=False)
            self._note(f"{task.id}: reopened by review, `{task.check}` fails")
            self._save()
        names = ", ".join(task.id for task in failed)
        report = (
            f"Review: {checked} finished tasks checked" + (f"; reopened: {names}" if failed else "; all hold") + "."
        )
        self._report(report)
        return f"{report} {self.plan()}"

    def _report(self, report: str) -> None:
        """Put the review's line below what a person has left, in the place of the one before."""
        old = REVIEW.read_text(encoding="utf-8").splitlines() if REVIEW.exists() else []
        kept = [line for line in old if not line.startswith("Review: ")]
        REVIEW.write_text("\n".join([*kept, report]) + "\n", encoding="utf-8")

    # --- how ---------------------------------------------------------------------------------------------------------

    def _assigned(self) -> Task:
        file = Path(self._config.input_file)
        found = _DO_NOW.search(file.read_text(encoding="utf-8")) if file.exists() else None
        if found is None:
            raise TaskError(f"{file} has no line `Do Now: TASK`")
        task = next((task for task in self.tasks if task.id == found["id"]), None)
        if task is None:
            raise TaskError(f"{file} names {found['id']}, which is not in {PLAN}")
        return task

    def _sh(self, script: str, what: str) -> None:
        done = self._run(script)
        if done.code:
            raise TaskError(f"{what} failed with exit code {done.code}")

    def _run(self, script: str) -> Completed:
        """Run the plan's shell text; what it prints passes through."""
        request = Request(argv=["/bin/sh", "-e", "-c", script], cwd=Path.cwd(), env=self._environment)
        return self._loop.wait(self._loop.spawn(request, lambda _, data: _say(data)))

    def _tick(self, task: Task, *, done: bool) -> None:
        lines = self._text.splitlines()
        lines[task.line] = re.sub(r"\[[ xX]\]", "[x]" if done else "[ ]", lines[task.line], count=1)
        self._text = "\n".join(lines) + "\n"
        task.done = done

    def _note(self, text: str) -> None:
        """Append to the attempts history at the plan's end."""
        body = self._text.rstrip("\n")
        body += "" if f"\n{HISTORY}" in f"\n{body}" else f"\n\n{HISTORY}\n"
        self._text = f"{body}\n- i={self._environment.get('ORCH_ITERATION', '?')} {text}\n"

    def _save(self) -> None:
        """Write the plan at once: an agent that is killed half-way finds it ticked and noted, or neither."""
        files.replace(PLAN, self._text.encode())

    def _ask_to_exit(self, reason: str) -> None:
        file = Path(self._config.state_file)
        raw = json.loads(file.read_bytes())
        files.replace(file, (json.dumps({**raw, "exit": True, "exit_reason": reason}, indent=2) + "\n").encode())

    def _plan_is_changed(self) -> bool:
        """Tell whether the plan is not committed as it is: an attempt before this one was cut off in between."""
        with git.Repo(Path.cwd(), search_parent_directories=True) as repository:
            return bool(repository.git.status("--porcelain", "--", str(PLAN)))

    def _commit(self, message: str) -> None:
        """Commit everything but what is the tool's, as a person would with `git add` and `git commit`."""
        repository = git.Repo(Path.cwd(), search_parent_directories=True)
        try:
            state = Path(self._config.state_file)
            repository.git.add("--all", "--", ".", f":(exclude){state}", f":(exclude){self._config.logs_dir}")
            repository.git.commit("--quiet", "-m", message)
        finally:
            repository.close()


def _assignment(task: Task) -> str:
    proof = f"\nIt is done when `{task.check}` passes.\n" if task.check else ""
    return f"# Input for ralph\n\nDo Now: {task.id} {task.title}\n{proof}"


def _say(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def main() -> int:
    """Play the part that ORCH_ACTOR and ORCH_PROMPT name, in the current folder; return the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    environment = for_agent(inherited())
    actor, prompt = environment.get("ORCH_ACTOR", Actor.GALPH), environment.get("ORCH_PROMPT", "")
    try:
        file = Path(FILE)
        config = resolve(file if file.exists() else None, {}, {}, Path.cwd()).config
        names = routes(config)
        with Loop(SystemClock()) as loop:
            agent = Checklist(config, loop, environment)
            parts = {names.router: lambda: names.supervisor, names.reviewer: agent.review}
            own = agent.plan if actor == Actor.GALPH else agent.implement
            said = parts.get(prompt, own)()
    except FileNotFoundError as error:
        return _fail(f"{error.filename} is missing" + (_HOW if str(error.filename) == str(PLAN) else ""))
    except (TaskError, git.GitCommandError, ValueError) as error:  # ValueError: a file is not UTF-8, or not JSON
        return _fail(str(error))
    _say((said if prompt == names.router else f"\n### Turn Summary\n{said}").encode() + b"\n")
    return 0


def _fail(text: str) -> int:
    sys.stderr.write(f"checklist: {text}\n")
    return 1
