"""What a run leaves to read, and that losing it costs nothing else."""

import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Project
from orchestration import __version__
from orchestration.clock import iso
from orchestration.events import AnyEvent, Notice, RunEnded, RunStarted, TurnEnded, TurnStarted, Waiting
from orchestration.journal import Claim
from orchestration.reports import RawLog, Reports
from orchestration.scaffold import TEMPLATES
from orchestration.state import Actor, Token

Capture = pytest.CaptureFixture[str]

QUIET = "cat >/dev/null\n"
NOW = datetime(2026, 1, 20, 3, 29, 29, tzinfo=UTC)
RAW = (
    b"\x1b[1;31mred\x1b[0m and \x1b]0;a title\x07plain\r\n"
    b"caf\xc3\xa9 and caf\xe9, a bell\x07, a tab\t.\n"
    b"\x1b[2J\x1b[H\x1b[?25l\xc2\x9b5mcleared\n"
    b"### Turn Summary\nDid the thing.\nAll of it.\n"
    b"no newline at the end"
)
SHOWN = [
    "  │ red and plain",
    "  │ café and caf\N{REPLACEMENT CHARACTER}, a bell, a tab\t.",
    "  │ 5mcleared",
    "  │ ### Turn Summary",
    "  │ Did the thing.",
    "  │ All of it.",
    "  │ no newline at the end",
]
AGENT = f"""
import os, subprocess, sys
sys.stdin.read()
sys.stdout.buffer.write({RAW!r})
sys.stdout.flush()
if os.environ["ORCH_ACTOR"] == "ralph":
    with open("src/new.py", "w") as new:
        new.write("one\\ntwo\\n")
    subprocess.run(["git", "add", "."], check=True)
    subprocess.run(["git", "commit", "-qm", "do | it"], check=True)
"""


def runs(project: Project, branch: str = "main") -> list[Path]:
    """Return the folders of a branch's runs, oldest first."""
    return sorted(path for path in (project.path / "logs" / branch).glob("*Z*") if not path.is_symlink())


def decoded(lines: list[str]) -> list[AnyEvent]:
    """Decode events, one a line; nothing may stand in a line that the union does not know."""
    events = [msgspec.json.decode(line, type=AnyEvent) for line in lines]
    assert [json.loads(line) for line in lines] == [msgspec.to_builtins(event) for event in events]
    return events


def test_a_run_leaves_its_folder_with_raw_logs_records_events_and_a_table(project: Project) -> None:
    project.git("switch", "--quiet", "-c", "work/on-this")
    state = project.path / "sync" / "state.json"
    state.write_text(state.read_text().replace('"main"', '"work/on-this"'))
    project.commit("another branch")
    agent = project.python_agent(AGENT)

    assert project.call("run", "-n", "1", "-c", "limits.turn_timeout=60", "--agent", agent) == 0

    (folder,) = runs(project, "work-on-this")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d{6}Z", folder.name)
    assert (folder.parent / "latest").readlink() == Path(folder.name)
    turns = ["iter-00001_galph_supervisor", "iter-00001_ralph_main"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [
            "run.json",
            "events.jsonl",
            "summary.md",
            *(f"{turn}.{kind}" for turn in turns for kind in ("log", "json", "md")),
        ]
    )
    for turn in turns:
        assert (folder / f"{turn}.log").read_bytes() == RAW
        assert (folder / f"{turn}.md").read_text() == (
            "### Turn Summary\nDid the thing.\nAll of it.\nno newline at the end\n"
        )

    run = json.loads((folder / "run.json").read_text())
    assert (run["version"], run["branch"], run["iterations"]) == (__version__, "work/on-this", 1)
    assert run["agents"] == {"galph supervisor.md": [agent], "ralph main.md": [agent], "galph reviewer.md": [agent]}
    assert (run["config"]["limits"]["turn_timeout"], run["config"]["state_file"]) == (60, "sync/state.json")
    assert run["sources"]["limits.turn_timeout"] == "-c limits.turn_timeout"
    assert run["sources"]["router.review_every_n"].startswith("orchestration.yaml:")
    assert run["folder"] == str(folder)

    events = decoded((folder / "events.jsonl").read_text().splitlines())
    in_a_turn = [Notice, TurnStarted, TurnEnded, Notice]
    kinds = [RunStarted, *in_a_turn, *in_a_turn, RunEnded]
    assert [type(event) for event in events] == kinds
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", event.at) for event in events)

    record = json.loads((folder / f"{turns[1]}.json").read_text())
    timed = {name: record.pop(name) for name in ("begun", "ended", "seconds")}
    assert timed["begun"] <= timed["ended"]
    assert 0 < timed["seconds"] < 60
    short = project.git("rev-parse", "--short", "HEAD^")
    assert record == {
        "iteration": 1,
        "actor": "ralph",
        "prompt": "main.md",
        "prompt_sha256": hashlib.sha256((project.path / "prompts" / "main.md").read_bytes()).hexdigest(),
        "routed": "ralph's own prompt",
        "reason": None,
        "agent": "agent",
        "argv": [agent],
        "exit_code": 0,
        "ended_by": "exited",
        "outcome": "ok",
        "attempts": 1,
        "session": None,
        "usage": None,
        "cost_usd": None,
        "tokens": None,
        "ok": True,
        "commits": [f"{short} do | it"],
        "files": 1,
        "insertions": 2,
        "deletions": 0,
        "hand_off": project.git("rev-parse", "HEAD"),
    }

    head, rule, *rows = (folder / "summary.md").read_text().splitlines()
    assert head == "| iteration | actor | prompt | result | time | commits | files | + | - |"
    assert set(rule) == {"|", "-"}
    assert [re.sub(r"\d+\.\d s", "T", row) for row in rows] == [
        "| 1 | galph | supervisor.md | ok | T | 0 | 0 | 0 | 0 |",
        "| 1 | ralph | main.md | ok | T | 1 | 1 | 2 | 0 |",
    ]


def test_a_failure_is_in_the_table_the_record_and_the_state(project: Project) -> None:
    agent = project.agent("cat >/dev/null; seq 1 30; echo the end >&2; exit 3\n", "a|b")

    assert project.call("run", "-q", "--agent", agent) == 4

    (folder,) = runs(project)
    record = json.loads((folder / "iter-00001_galph_supervisor.json").read_text())
    assert (record["ok"], record["exit_code"], record["ended_by"]) == (False, 3, "exited")
    assert record["reason"].startswith("the agent a|b ended with exit code 3")
    failure = project.state()["failure"]
    assert (failure["exit_code"], failure["log"]) == (3, str(folder / "iter-00001_galph_supervisor.log"))
    assert len(failure["tail"]) == 20
    assert "the end" in failure["tail"]
    table = (folder / "summary.md").read_text().splitlines()
    assert table[2].startswith("| 1 | galph | supervisor.md | failed: the agent a\\|b ended with exit code 3")
    assert table[2].count(" | ") == 8


@pytest.mark.parametrize("mode", ["person", "quiet", "json"])
def test_output_is_shown_cleaned_or_not_at_all_and_logged_raw(project: Project, capsys: Capture, mode: str) -> None:
    flags = {"person": [], "quiet": ["-q"], "json": ["--json"]}[mode]
    capsys.readouterr()

    assert project.call("run", "--once", *flags, "--agent", project.python_agent(AGENT)) == 0

    told = capsys.readouterr()
    (folder,) = runs(project)
    assert (folder / "iter-00001_galph_supervisor.log").read_bytes() == RAW
    assert told.err == ""
    if mode == "person":
        lines = told.out.splitlines()
        assert [line for line in lines if line.startswith("  │")] == SHOWN
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", told.out)
        assert any(line.startswith("  ✓ ") for line in lines)
        assert "stopped after 1 turn: one turn was asked for  [once, exit 0]" in lines
    elif mode == "quiet":
        assert told.out == ""
    else:
        assert decoded(told.out.splitlines()) == decoded((folder / "events.jsonl").read_text().splitlines())


def test_quiet_tells_failures(project: Project, capsys: Capture) -> None:
    capsys.readouterr()

    assert project.call("run", "-q", "--agent", project.agent("cat >/dev/null; echo noise; exit 3\n")) == 4

    told = capsys.readouterr()
    assert "the agent agent ended with exit code 3" in told.out
    assert "  │" not in told.out


def test_what_ran_nothing_leaves_no_folder(project: Project, capsys: Capture) -> None:
    agent = project.agent(QUIET)
    assert project.call("pause") == 0
    assert project.call("run", "--max-wait-sec", "0.1", "--json", "--agent", agent) == 6
    assert [type(event) for event in decoded(capsys.readouterr().out.splitlines()[-3:])] == [
        RunStarted,
        Waiting,
        RunEnded,
    ]
    assert project.call("resume") == 0
    project.write("src/app.py", "changed\n")
    assert project.call("run", "--agent", agent) == 3
    project.git("checkout", "--quiet", "--", "src/app.py")
    assert project.call("stamp", "galph", "fail") == 0
    assert project.call("run", "--agent", agent) == 4
    assert project.call("run", "--agent", "./missing") == 2

    assert not (project.path / "logs" / "main").exists()
    assert project.dirt() == ""


def test_two_runs_in_one_second_have_a_folder_each_and_latest_is_the_newer(tmp_path: Path) -> None:
    told: list[str] = []
    for number in range(3):
        reports = Reports(tmp_path / "logs", "team/work", NOW, {"run": number}, told.append)
        reports.event(Waiting(why=f"run {number}"))
        assert not (tmp_path / "logs" / "team-work" / f"2026-01-20T032929Z-{number + 1}").exists()
        claim = Claim(Actor.GALPH, number + 1, Token(1, "me", "nonce"), "team/work", "b" * 40, iso(NOW))
        base = reports.begin_turn(claim, "deep/er/prompt.md")
        assert base.name == f"iter-{number + 1:05d}_galph_deep-er-prompt"

    folders = sorted((tmp_path / "logs" / "team-work").glob("2026*"))
    assert [folder.name for folder in folders] == [f"2026-01-20T032929Z{end}" for end in ("", "-2", "-3")]
    assert (tmp_path / "logs" / "team-work" / "latest").resolve() == folders[-1]
    for number, folder in enumerate(folders):
        assert json.loads((folder / "run.json").read_text()) == {"run": number, "folder": str(folder)}
        assert decoded((folder / "events.jsonl").read_text().splitlines()) == [Waiting(why=f"run {number}")]
    assert told == []


@pytest.mark.parametrize(("keep", "stay"), [(0, 12), (1, 1), (3, 3), (50, 12)])
def test_so_many_of_the_newest_runs_of_the_branch_are_kept_and_what_is_not_a_run_is_left_alone(
    tmp_path: Path, keep: int, stay: int
) -> None:
    logs = tmp_path / "logs"
    mine = [
        "main/notes/run.json", "main/2026-01-01T000000Z/mine.txt", "main/2026-01-02-old/run.json", "side/a/run.json",
        "side/2020-01-01T000000Z/run.json", "elsewhere/run.json",
    ]  # fmt: skip
    for path in mine:
        (logs / path).parent.mkdir(parents=True)
        (logs / path).write_text("mine\n")
    (logs / "main" / "2019-01-01T000000Z").symlink_to(logs / "elsewhere")
    names = ["2026-01-19T000000Z", *(f"2026-01-20T032929Z{end}" for end in ("", *(f"-{n}" for n in range(2, 11))))]
    told: list[str] = []

    for number in range(12):
        now = NOW.replace(day=19, hour=0, minute=0, second=0) if number == 0 else NOW
        now = NOW.replace(year=2025) if number == 11 else now  # the clock was set back
        reports = Reports(logs, "main", now, {}, told.append, 0 if number < 11 else keep)
        reports.begin_turn(Claim(Actor.GALPH, 1, Token(1, "me", "n"), "main", "b" * 40, iso(NOW)), "main.md")

    left = {path.parent.name for path in (logs / "main").glob("20*T*Z*/run.json") if not path.parent.is_symlink()}
    assert left == {"2025-01-20T032929Z", *names[len(names) - stay + 1 :]}
    assert {path: (logs / path).read_text() for path in mine} == dict.fromkeys(mine, "mine\n")
    assert (logs / "main" / "2019-01-01T000000Z").is_symlink()
    assert (logs / "main" / "latest").resolve() == reports.folder
    assert told == []


def test_the_setting_says_how_many_runs_are_kept(project: Project) -> None:
    for _ in range(4):
        assert project.call("run", "--once", "-q", "-c", "logs.keep=2", "--agent", project.agent(QUIET)) == 0

    assert len(runs(project)) == 2
    turns = [path.name for folder in runs(project) for path in folder.glob("iter-*.log")]
    assert sorted(turns) == ["iter-00002_galph_supervisor.log", "iter-00002_ralph_main.log"]
    assert (project.path / "logs" / "main" / "latest").resolve() in runs(project)


# --- a log that cannot be written ------------------------------------------------------------------------------------


def test_a_log_folder_that_cannot_be_made_costs_logs_and_never_the_turn(project: Project, capsys: Capture) -> None:
    (project.path / "logs/.gitignore").unlink()
    (project.path / "logs").rmdir()
    project.write("logs", "in the way\n")
    project.write(".git/info/exclude", "logs\n")
    project.commit("the logs are elsewhere")
    capsys.readouterr()

    assert project.call("run", "-n", "1", "--agent", project.python_agent(AGENT)) == 0

    told = capsys.readouterr().out
    assert told.count("[log-lost]") == 1
    assert "logging failed and the loop goes on: " in told
    assert [line for line in told.splitlines() if line.startswith("  │")] == SHOWN * 2
    assert project.state()["iteration"] == 2


# what an agent does to the folder of its run
WRECKERS = {
    "removed": 'rm -rf "$ORCH_REPORT_DIR"',
    "full disk": 'ln -sf /dev/full "$ORCH_REPORT_DIR/events.jsonl"; ln -sf /dev/full "$ORCH_REPORT_DIR/summary.md"',
    "garbage record": 'echo garbage >"$ORCH_REPORT_DIR/iter-00001_${ORCH_ACTOR}_${ORCH_PROMPT%.md}.json"',
    "a list as record": 'echo "[1]" >"$ORCH_REPORT_DIR/iter-00001_${ORCH_ACTOR}_${ORCH_PROMPT%.md}.json"',
    "a folder as record": 'mkdir "$ORCH_REPORT_DIR/iter-00001_${ORCH_ACTOR}_${ORCH_PROMPT%.md}.json"',
}


@pytest.mark.parametrize("how", WRECKERS)
def test_a_log_folder_that_is_spoiled_meanwhile_costs_logs_and_never_the_turn(
    project: Project, capsys: Capture, how: str
) -> None:
    agent = project.agent(f"cat >/dev/null; {WRECKERS[how]}; echo done\n")
    capsys.readouterr()

    assert project.call("run", "-n", "1", "--json", "--agent", agent) == 0

    events = decoded(capsys.readouterr().out.splitlines())
    assert [event.code for event in events if isinstance(event, Notice) and event.level == "warning"] == ["log-lost"]
    assert [event.ok for event in events if isinstance(event, TurnEnded)] == [True, True]
    assert (project.state()["iteration"], project.journal(), project.dirt()) == (2, "idle", "")


def test_a_commit_whose_subject_is_no_text_is_recorded_all_the_same(project: Project) -> None:
    agent = project.agent(
        """
        cat >/dev/null
        if [ "$ORCH_ACTOR" = galph ]; then exit 0; fi
        echo more >>src/app.py
        printf 'caf\\351 and more' | git -c i18n.commitEncoding=unknown commit -qaF -
        """
    )

    assert project.call("run", "-n", "1", "-q", "--agent", agent) == 0

    (folder,) = runs(project)
    record = json.loads((folder / "iter-00001_ralph_main.json").read_text())
    assert record["commits"][0].endswith(" caf\N{REPLACEMENT CHARACTER} and more")
    assert (project.state()["iteration"], project.journal()) == (2, "idle")


def test_a_disk_that_fills_up_ends_the_log_and_is_told(tmp_path: Path) -> None:
    (tmp_path / "full.log").symlink_to("/dev/full")
    told: list[OSError] = []

    log = RawLog(tmp_path / "full.log", told.append)
    log.write(b"one\n")
    log.write(b"two\n")
    log.close()

    assert [error.errno for error in told] == [28]


@settings(max_examples=150, deadline=None)
@given(chunks=st.lists(st.integers(1, 90)), cap=st.integers(8, 120))
def test_above_its_cap_a_log_keeps_head_and_tail_and_says_what_is_missing(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[int], cap: int
) -> None:
    path = tmp_path_factory.mktemp("raw") / "turn.log"
    whole = b"".join(f"<{number:05d}>".encode() for number in range(sum(chunks)))[: sum(chunks)]
    log = RawLog(path, lambda error: pytest.fail(str(error)), cap)

    rest = whole
    for size in chunks:
        log.write(rest[:size])
        rest = rest[size:]
    log.close()

    kept = path.read_bytes()
    found = re.search(rb"\n\[\.\.\. ([\d,]+) bytes left out here \.\.\.\]\n", kept)
    if found is None:
        assert kept == whole
    else:
        head, tail = kept[: found.start()], kept[found.end() :]
        assert whole.startswith(head)
        assert whole.endswith(tail)
        assert len(head) == cap // 2
        assert len(tail) >= min(cap // 4, len(whole) - len(head))
        assert len(head) + len(tail) + int(found[1].replace(b",", b"")) == len(whole)
        assert len(whole) > cap
    assert [other.name for other in path.parent.iterdir()] == ["turn.log"]


def test_a_log_is_whole_up_to_its_cap_while_it_is_written_and_a_rerun_cuts_only_its_own_part(tmp_path: Path) -> None:
    path = tmp_path / "turn.log"
    path.write_bytes(b"the first run\n")
    log = RawLog(path, lambda error: pytest.fail(str(error)), 40)
    log.write(b"a" * 30)
    log.write(b"b" * 10)
    assert path.read_bytes() == b"the first run\n" + b"a" * 30 + b"b" * 10

    log.write(b"c" * 10)
    log.write(b"d" * 10)
    log.close()

    note = b"\n[... 20 bytes left out here ...]\n"
    assert path.read_bytes() == b"the first run\n" + b"a" * 20 + note + b"c" * 10 + b"d" * 10


# --- the prompts that a project is given -----------------------------------------------------------------------------

PROMPTS = {
    "supervisor.md": ["docs/fix_plan.md", "input.md", "galph_memory.md", "sync/state.json"],
    "main.md": ["docs/fix_plan.md", "input.md", "sync/state.json"],
    "reviewer.md": ["docs/fix_plan.md", "input.md", "galph_memory.md"],
    "router.md": ["docs/fix_plan.md", "galph_memory.md", "supervisor.md", "reviewer.md"],
}


def test_the_projects_own_prompts_are_the_ones_that_init_writes() -> None:
    ours = Path(__file__).resolve().parents[1] / "prompts"

    given_away = {path.name: path.read_bytes() for path in (TEMPLATES / "prompts").iterdir()}
    assert {path.name: path.read_bytes() for path in ours.iterdir()} == given_away
    assert set(given_away) == set(PROMPTS)


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_is_short_names_its_files_and_asks_for_the_turns_summary(name: str) -> None:
    text = (TEMPLATES / "prompts" / name).read_text()

    lines = text.splitlines()
    assert len(lines) <= 40
    assert max(len(line) for line in lines) <= 130
    for word in PROMPTS[name]:
        assert f"`{word}`" in text
    sections = [line for line in lines if line.startswith("#")]
    assert sections[1:] == ([] if name == "router.md" else ["### Turn Summary"])
    assert text.endswith("\n")
    assert re.search(r"`[^`]*\n[^`]*`", re.sub(r"`[^`\n]*`", "", text)) is None
