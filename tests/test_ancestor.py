"""The ancestor's orchestration.yaml, which loads unchanged."""

import json
from pathlib import Path

import yaml

from conftest import Project
from orchestration.config import resolve
from orchestration.layers import FILE

ANCESTOR = Path(__file__).with_name("data") / "ancestor.yaml"
PLAN = """\
# Plan

- [ ] T1: Write one
  ```sh
  echo one >one.txt
  ```
  check: `grep -q one one.txt`
- [ ] T2: Write two
  ```sh
  echo two >two.txt
  ```
"""


def test_the_ancestors_file_has_every_key_that_the_ancestor_had_and_loads_unchanged(project: Project) -> None:
    contract = (
        "prompts_dir supervisor_prompt main_prompt reviewer_prompt state_file logs_dir tmp_dir findings_file "
        "input_file doc_whitelist tracked_output_globs report_extensions tracked_output_extensions spec_bootstrap "
        "router agent"
    )
    document = yaml.safe_load(ANCESTOR.read_text())
    assert set(document) == set(contract.split())
    assert set(document["router"]) == {"enabled", "mode", "prompt", "review_every_n", "allowlist"}
    assert set(document["agent"]) == {"default", "roles", "prompts"}
    project.write(FILE, ANCESTOR.read_text())

    config, sources, warnings = resolve(project.path / FILE, {}, {}, project.path)

    assert config.agent.roles == {"galph": "codex", "ralph": "claude"}
    assert (config.router.mode, config.router.enabled) == ("router_default", True)
    assert len(sources) == len(contract.split()) - 4 + 5 + 3  # two maps, two keys without effect
    assert [warning.partition(" has no effect")[0] for warning in warnings] == [
        f"{FILE}:7: `spec_bootstrap`",
        f"{FILE}:11: `findings_file`",
    ]
    assert config.agent.prompts == {"reviewer.md": "claude"}
    assert config.report_extensions == [".md", ".json", ".log"]


def test_a_run_with_the_ancestors_file_works_and_warns_once_of_each_key_without_effect(project: Project) -> None:
    project.write(FILE, ANCESTOR.read_text())
    project.write("docs/fix_plan.md", PLAN)
    project.commit("as the ancestor left it")

    ran = project.run("--mode", "combined", "-n", "2", "--agent-role", "supervisor=checklist,loop=checklist")

    assert ran.returncode == 0, ran.stdout + ran.stderr
    records = sorted((project.path / "logs" / "main" / "latest").glob("iter-*.json"))
    assert [json.loads(path.read_text())["prompt"] for path in records] == [
        *("supervisor.md", "main.md", "reviewer.md", "main.md")
    ]
    assert (project.path / "one.txt").read_text() + (project.path / "two.txt").read_text() == "one\ntwo\n"
    assert project.dirt() == ""
    for key in ("spec_bootstrap", "findings_file"):
        assert (ran.stdout + ran.stderr).count(f"`{key}` has no effect") == 1
