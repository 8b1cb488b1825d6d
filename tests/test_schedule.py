"""What `init --cron` and `init --systemd` print is what cron and systemd take, and it makes turns; no more happens."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import Capture, Project, everything, person, repository, script
from orchestration.schedule import Job, unit_name, units

ODD = """a "100%" $HOME's"""
"""A folder's name in which shell, cron and systemd each would read something."""


@pytest.fixture
def odd(tmp_path: Path) -> Project:
    """Give a project in a folder whose name must be quoted."""
    made = repository(tmp_path / ODD)
    assert made.call("init", "--json") == 0
    return made


def entry(project: Project, capsys: Capture, *args: str) -> tuple[str, list[str]]:
    """Return the PATH of a printed entry, and its line: the schedule's five words and the command."""
    printed = script(project, capsys, "init", "--cron", *args)["cron"]
    lines = [line for line in printed.splitlines() if line[0] != "#"]
    path, line = lines
    assert path.startswith("PATH=")
    return path.removeprefix("PATH="), line.split(" ", 5)


def run_bare(path: str, command: str, home: str) -> int:
    """Run a command as cron does: a percent sign is escaped, and the environment is bare."""
    bare = {"SHELL": "/bin/sh", "HOME": home, "LOGNAME": "me", "PATH": path}
    done = subprocess.run(
        ["/bin/sh", "-c", command.replace("\\%", "%")], cwd=home, env=bare, check=False, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("", "")
    return done.returncode


def test_the_entry_runs_one_turn_under_a_bare_environment_and_appends_what_was_printed(
    odd: Project, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (odd.path.parent / "bin").mkdir()
    agent = odd.agent('[ "$ORCH_ACTOR" = galph ]', "bin/mine")
    odd.write("orchestration.yaml", "agent: {default: mine}\n")
    odd.commit("an agent that PATH finds")
    monkeypatch.setenv("PATH", f"{Path(agent).parent}:{os.environ['PATH']}")
    path, line = entry(odd, capsys)

    codes = [run_bare(path, line[5], os.environ["HOME"]) for _ in range(3)]

    assert codes == [0, 4, 4]
    told = (odd.path / "logs" / "cron.log").read_text()
    assert told.count("orchestrator retry") == 2
    assert [re.findall(r"actor=(\w+) .*status=(\w+)", subject) for subject in odd.subjects()[-2:]] == [
        [("galph", "ok")],
        [("ralph", "fail")],
    ]


@pytest.mark.parametrize(
    ("every", "when"), [((), "*/10"), (("--every", "1"), "*"), (("--every", "30"), "*/30"), (("--every", "60"), "0")]
)
def test_the_entry_is_called_as_often_as_is_said(
    project: Project, capsys: Capture, every: tuple[str, ...], when: str
) -> None:
    _, line = entry(project, capsys, *every)

    assert line[:5] == [when, "*", "*", "*", "*"]


def test_role_and_bus_are_the_entrys_too(project: Project, capsys: Capture) -> None:
    _, line = entry(project, capsys, "--role", "galph", "--sync-via-git")

    assert "run --once -q --role galph --sync-via-git >>" in line[5]


@pytest.mark.parametrize("every", ["0", "7", "61", "120"])
def test_minutes_that_do_not_divide_an_hour_are_refused(project: Project, capsys: Capture, every: str) -> None:
    for which in ("--cron", "--systemd"):
        assert "must divide an hour" in person(project, capsys, "init", which, "--every", every, code=2)


@pytest.mark.parametrize("args", [("--cron", "--systemd"), ("--cron", "--undo"), ("--every", "5"), ("--role", "galph")])
def test_a_schedule_is_asked_for_alone(project: Project, capsys: Capture, args: tuple[str, ...]) -> None:
    person(project, capsys, "init", *args, code=2)


def test_printing_changes_nothing(bare_project: Project, capsys: Capture) -> None:
    before = everything(bare_project.path)

    printed = script(bare_project, capsys, "init", "--cron")["cron"]
    shown = script(bare_project, capsys, "init", "--systemd")

    assert printed.endswith("2>&1\n")
    assert (list(shown["units"]), shown["written"]) == (
        ["orchestrator-project.service", "orchestrator-project.timer"],
        [],
    )
    assert everything(bare_project.path) == before


@pytest.mark.parametrize("which", ["--cron", "--systemd"])
def test_a_schedule_whose_every_start_would_be_refused_is_printed_with_a_warning(
    bare_project: Project, capsys: Capture, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    def warned(*args: str) -> str:
        capsys.readouterr()
        assert bare_project.call("init", which, *args) == 0
        told = capsys.readouterr()
        assert "run --once -q" in told.out
        return told.err

    monkeypatch.setenv("ORCHESTRATION_AGENT_DEFAULT", "checklist")  # which cron and systemd know nothing of
    assert "every start would be refused: no agent is configured to run supervisor.md for galph" in warned()
    assert "no agent is configured to run main.md for ralph" in warned("--role", "ralph")
    bare_project.write("orchestration.yaml", "agent: {default: checklist}\n")
    assert "every start would be refused: sync/state.json on main: the state file is missing" in warned()
    assert "`orchestrator doctor`, as it stands, without --agent" in warned()
    assert bare_project.call("init") == 0
    assert warned() == ""


def test_units_are_written_once_and_never_over_another(project: Project, capsys: Capture, tmp_path: Path) -> None:
    there = tmp_path / "units"
    person(project, capsys, "init", "--systemd", str(there), "--role", "ralph")
    service = there / "orchestrator-project-ralph.service"
    written = service.read_text()
    assert "run --once -q --role ralph\n" in written
    told = person(project, capsys, "init", "--systemd", str(there), "--role", "ralph", code=3)
    assert f"{service}, {service.with_suffix('.timer')} exist: " in told
    (there / "orchestrator-project-ralph.timer").unlink()

    told = person(project, capsys, "init", "--systemd", str(there), "--role", "ralph", "--every", "5", code=3)

    assert f"{service} exists" in told
    assert [file.name for file in there.iterdir()] == [service.name]
    assert service.read_text() == written


def test_systemd_finds_nothing_wrong_with_the_units(odd: Project, capsys: Capture, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze here; on Debian: apt-get install systemd")
    there = tmp_path / "units"
    for every in ("1", "10", "60"):
        person(odd, capsys, "init", "--systemd", str(there / every), "--every", every)
        files = [str(file) for file in sorted((there / every).iterdir())]
        runtime = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}

        seen = subprocess.run(
            [analyze, "--user", "verify", *files], env=runtime, check=False, capture_output=True, text=True
        )

        assert len(files) == 2
        assert (seen.returncode, seen.stderr) == (0, "")


def test_a_unit_says_what_its_words_are_whatever_is_in_them() -> None:
    job = Job(["/a b/$x", 'say "hi"'], [], Path("/50%"), Path("/50%/logs"), "/a b:/c%d:/e$f", 10)

    lines = units(job, "u")["u.service"].splitlines()

    assert r'ExecStart="/a b/$$x" "say \"hi\"" run --once -q' in lines
    assert 'Environment="PATH=/a b:/c%%d:/e$f"' in lines
    assert "WorkingDirectory=/50%%" in lines


def test_two_roles_of_one_project_have_units_of_their_own() -> None:
    names = [unit_name(Path("/my work"), role) for role in (None, "galph", "ralph")]

    assert names == ["orchestrator-my-work", "orchestrator-my-work-galph", "orchestrator-my-work-ralph"]
    assert all(re.fullmatch(r"[\w.-]+", name) for name in names)
