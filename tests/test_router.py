"""Which prompt a turn runs."""

import posixpath
from collections import Counter
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestration.router import Decision, Mode, RouteError, Routes, Source, normalise, route, wants_override
from orchestration.state import Actor

GALPH, RALPH = Actor.GALPH, Actor.RALPH
FILES = frozenset({"supervisor.md", "main.md", "reviewer.md", "router.md", "notes.md", "team/plan.md"})


def decide(
    routes: Routes,
    *,
    actor: Actor = GALPH,
    iteration: int = 17,
    override: str | None = None,
    files: frozenset[str] = FILES,
) -> str:
    """Return the prompt and what decided, as in `main.md by actor`, or the code of the refusal."""
    try:
        decision = route(actor, iteration, routes, override, files.__contains__)
    except RouteError as error:
        return error.code
    return f"{decision.prompt} by {decision.source}"


def refusal(routes: Routes, override: str | None = None, files: frozenset[str] = FILES) -> RouteError:
    """Return why galph's turn at iteration 17 runs nothing."""
    with pytest.raises(RouteError) as caught:
        route(GALPH, 17, routes, override, files.__contains__)
    return caught.value


# --- the whole product, judged by a table ----------------------------------------------------------------------------

# The iterations at which each cadence is due, counted by hand.
DUE = {
    0: set[int](),
    1: {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12},
    2: {2, 4, 6, 8, 10, 12},
    3: {3, 6, 9, 12},
    4: {4, 8, 12},
}

# What the router prompt said, and the files that exist then; no text: `router.prompt` is not set.
OVERRIDES: dict[str, tuple[str | None, frozenset[str]]] = {
    "unset": (None, FILES),
    "own": ("supervisor.md", FILES),
    "reviewer": ("reviewer.md", FILES),
    "other actor's": ("main.md", FILES),
    "unlisted": ("notes.md", FILES),
    "missing file": ("reviewer.md", FILES - {"reviewer.md"}),
    "empty": (" \n", FILES),
    "two lines": ("supervisor.md\nreviewer.md", FILES),
}


class Case(NamedTuple):
    """One turn under one configuration."""

    iteration: int
    actor: Actor
    cadence: int
    mode: Mode
    override: str

    @property
    def cells(self) -> tuple[str, ...]:
        """What a rule's cells are compared with."""
        when = "due" if self.iteration in DUE[self.cadence] else "between"
        return (when, self.actor, str(self.cadence), self.mode.removeprefix("router_"), self.override)

    @property
    def outcome(self) -> str:
        """What the router says to it."""
        said, files = OVERRIDES[self.override]
        routes = Routes(
            router=None if said is None else "router.md", mode=self.mode, review_every_n=self.cadence, allowlist=()
        )
        return decide(routes, actor=self.actor, iteration=self.iteration, override=said, files=files)


# In a cell `*` is anything and `/` is or.
RULES = """
iteration | actor | cadence | mode          | override      | expected

*         | ralph | *       | *             | *             | main.md by actor

*         | galph | 0       | default/first | unset         | supervisor.md by actor
between   | galph | 1/2/3/4 | default/first | unset         | supervisor.md by actor
due       | galph | 1/2/3/4 | default/first | unset         | reviewer.md by review
*         | galph | *       | only          | unset         | route-no-router

*         | galph | *       | *             | own           | supervisor.md by override
*         | galph | *       | *             | reviewer      | reviewer.md by override
*         | galph | *       | *             | other actor's | route-gated
*         | galph | *       | *             | unlisted      | route-unlisted
*         | galph | *       | *             | missing file  | route-missing-file
*         | galph | *       | *             | empty         | route-no-choice
*         | galph | *       | *             | two lines     | route-no-choice
"""


class Rule(NamedTuple):
    """One row of the table."""

    cells: tuple[str, ...]
    expected: str

    def matches(self, case: Case) -> bool:
        """Tell whether every cell admits the case."""
        return all(cell == "*" or value in cell.split("/") for cell, value in zip(self.cells, case.cells, strict=True))


def rules() -> Iterator[Rule]:
    for line in RULES.strip().splitlines()[1:]:
        if line:
            *cells, expected = (cell.strip() for cell in line.split("|"))
            yield Rule(tuple(cells), expected)


TABLE = list(rules())
CASES = [Case(*values) for values in product(range(1, 13), Actor, DUE, Mode, OVERRIDES)]


def test_every_case_has_exactly_one_rule_and_every_rule_a_case() -> None:
    assert len(CASES) == 12 * 2 * 5 * 3 * 8
    assert len(TABLE) <= 40
    matched = {case: [rule for rule in TABLE if rule.matches(case)] for case in CASES}
    assert {case: found for case, found in matched.items() if len(found) != 1} == {}
    used = Counter(rule for found in matched.values() for rule in found)
    assert [rule for rule in TABLE if not used[rule]] == []


def test_every_case_is_decided_by_its_rule() -> None:
    wrong = [
        f"{case}: expected {rule.expected}, decided {case.outcome}"
        for case in CASES
        for rule in TABLE
        if rule.matches(case) and case.outcome != rule.expected
    ]
    assert not wrong, f"{len(wrong)} of {len(CASES)} cases, such as\n" + "\n".join(wrong[:10])


# --- without a router prompt -----------------------------------------------------------------------------------------


def test_router_deterministic() -> None:
    turns = [(actor, iteration) for iteration in range(1, 7) for actor in (GALPH, RALPH)]

    plain = [decide(Routes(), actor=actor, iteration=iteration) for actor, iteration in turns]
    assert plain == ["supervisor.md by actor", "main.md by actor"] * 6

    every_third = [decide(Routes(review_every_n=3), actor=actor, iteration=iteration) for actor, iteration in turns]
    assert every_third == [*plain[:4], "reviewer.md by review", "main.md by actor"] * 2

    again = [decide(Routes(review_every_n=3), actor=actor, iteration=iteration) for actor, iteration in turns]
    assert again == every_third

    off = Routes(enabled=False, review_every_n=1, router="router.md", mode=Mode.ONLY)
    ignored = [decide(off, actor=actor, iteration=iteration, override="reviewer.md") for actor, iteration in turns]
    assert ignored == plain


def test_the_configured_names_are_the_ones_that_run() -> None:
    routes = Routes(supervisor="team/plan.md", main="notes.md", reviewer="main.md", review_every_n=2)
    assert decide(routes, iteration=1) == "team/plan.md by actor"
    assert decide(routes, iteration=2) == "main.md by review"
    assert decide(routes, iteration=2, actor=RALPH) == "notes.md by actor"
    assert decide(routes, iteration=1, files=frozenset({"supervisor.md"})) == "route-missing-file"


def test_a_negative_cadence_is_none() -> None:
    assert decide(Routes(review_every_n=-1)) == "supervisor.md by actor"


@pytest.mark.parametrize(
    ("routes", "source", "words"),
    [
        pytest.param(Routes(), Source.ACTOR, ["galph", "own"], id="own"),
        pytest.param(Routes(enabled=False), Source.ACTOR, ["router is off"], id="off"),
        pytest.param(Routes(review_every_n=6), Source.REVIEW, ["18", "6"], id="review"),
        pytest.param(Routes(router="team/ask.md"), Source.OVERRIDE, ["team/ask.md"], id="override"),
    ],
)
def test_a_decision_tells_why(routes: Routes, source: Source, words: list[str]) -> None:
    decision = route(GALPH, 18, routes, "supervisor.md", FILES.__contains__)
    assert decision.source is source
    assert [word for word in words if word not in decision.reason] == []


# --- the override ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("router", [None, "router.md"])
@pytest.mark.parametrize("enabled", [True, False])
def test_a_router_prompt_is_asked_on_galphs_turn_only(mode: Mode, router: str | None, enabled: bool) -> None:
    routes = Routes(enabled=enabled, router=router, mode=mode)
    assert not wants_override(routes, RALPH)
    assert wants_override(routes, GALPH) == (enabled and (router == "router.md" or mode == "router_only"))


@pytest.mark.parametrize(
    "said",
    [
        "reviewer",
        "reviewer.md",
        "prompts/reviewer.md",
        "  reviewer.md  ",
        "\n\nreviewer.md\n",
        "`reviewer.md`",
        '"reviewer.md"',
        "'prompts/reviewer'",
        "` reviewer `",
        "reviewer.md\r\n",
    ],
)
def test_an_answer_may_be_dressed(said: str) -> None:
    assert decide(Routes(router="router.md"), override=said) == "reviewer.md by override"


@pytest.mark.parametrize(
    ("said", "code"),
    [
        pytest.param(None, "route-no-choice", id="never asked"),
        pytest.param("", "route-no-choice", id="nothing"),
        pytest.param("\n \t\n", "route-no-choice", id="white space"),
        pytest.param("reviewer.md\nsupervisor.md", "route-no-choice", id="two lines"),
        pytest.param("reviewer.md\n\nbecause it is time", "route-no-choice", id="a choice and an essay"),
        pytest.param("reviewer.md " + "x" * 100_000, "route-no-choice", id="an essay on one line"),
        pytest.param("run reviewer.md", "route-unlisted", id="a sentence"),
        pytest.param("Reviewer.md", "route-unlisted", id="another case"),
        pytest.param("/etc/passwd", "route-escape", id="an absolute path"),
        pytest.param("../../reviewer.md", "route-escape", id="a way out"),
        pytest.param("``", "route-escape", id="an empty quotation"),
    ],
)
def test_an_answer_that_names_no_prompt_fails_the_turn(said: str | None, code: str) -> None:
    for mode in Mode:
        assert decide(Routes(router="router.md", mode=mode), override=said) == code


# --- allowlist, gate and files ---------------------------------------------------------------------------------------


def test_a_narrow_allowlist_binds_every_decision() -> None:
    no_review = Routes(allowlist=("supervisor.md", "main.md"), review_every_n=2, router="router.md", mode=Mode.FIRST)
    assert decide(no_review, iteration=1, override="supervisor") == "supervisor.md by override"
    assert decide(no_review, iteration=1, override="reviewer") == "route-unlisted"
    assert decide(no_review, iteration=2, actor=RALPH) == "main.md by actor"

    assert decide(Routes(allowlist=("supervisor.md", "main.md"), review_every_n=2), iteration=2) == "route-unlisted"
    assert decide(Routes(allowlist=("main.md",))) == "route-unlisted"
    assert decide(Routes(allowlist=("supervisor.md", "reviewer.md")), actor=RALPH) == "route-unlisted"


@pytest.mark.parametrize(
    ("routes", "unlisted"),
    [
        (Routes(allowlist=("main.md",)), ["supervisor.md", "reviewer.md"]),
        (Routes(allowlist=("main.md",), router="router.md"), ["supervisor.md", "reviewer.md"]),
        (Routes(allowlist=("main.md",), router="router.md", mode=Mode.ONLY), []),
        (Routes(allowlist=("other.md",), router="router.md", mode=Mode.FIRST), ["main.md"]),
        (Routes(allowlist=("other.md",), enabled=False), []),
    ],
)
def test_what_the_allowlist_keeps_out_is_known_before_a_turn(routes: Routes, unlisted: list[str]) -> None:
    assert routes.unlisted(["supervisor.md", "main.md", "reviewer.md", "router.md"][: 4 if routes.router else 3]) == (
        unlisted
    )


def test_a_wide_allowlist_does_not_open_the_gate() -> None:
    wide = Routes(allowlist=tuple(sorted(FILES)), router="router.md")
    for name in sorted(FILES - {"supervisor.md", "reviewer.md"}):
        assert decide(wide, override=name) == "route-gated", name


def test_the_router_off_knows_neither_allowlist_nor_router_but_still_needs_the_file() -> None:
    off = Routes(enabled=False, allowlist=("notes.md",), mode=Mode.ONLY)
    assert decide(off) == "supervisor.md by actor"
    assert decide(off, actor=RALPH) == "main.md by actor"
    assert decide(off, files=FILES - {"supervisor.md"}) == "route-missing-file"


@pytest.mark.parametrize(
    ("mode", "outcome"),
    [
        pytest.param(Mode.DEFAULT, "route-missing-file", id="router_default: the deterministic choice must stand"),
        pytest.param(Mode.FIRST, "reviewer.md by override", id="router_first: the override comes first"),
        pytest.param(Mode.ONLY, "reviewer.md by override", id="router_only: nothing else is asked"),
    ],
)
def test_a_missing_deterministic_prompt_matters_where_it_comes_first(mode: Mode, outcome: str) -> None:
    routes = Routes(router="router.md", mode=mode)
    assert decide(routes, override="reviewer", files=FILES - {"supervisor.md"}) == outcome


@pytest.mark.parametrize(
    ("mode", "outcome"),
    [
        pytest.param(Mode.DEFAULT, "route-unlisted", id="router_default"),
        pytest.param(Mode.FIRST, "supervisor.md by override", id="router_first"),
        pytest.param(Mode.ONLY, "supervisor.md by override", id="router_only"),
    ],
)
def test_an_unlisted_review_matters_where_it_comes_first(mode: Mode, outcome: str) -> None:
    routes = Routes(router="router.md", mode=mode, review_every_n=1, allowlist=("supervisor.md", "main.md"))
    assert decide(routes, override="supervisor") == outcome


def test_router_only_without_a_router_prompt_stops_galph_and_not_ralph() -> None:
    alone = Routes(mode=Mode.ONLY)
    assert decide(alone, override="supervisor.md") == "route-no-router"
    assert decide(alone, actor=RALPH) == "main.md by actor"
    error = refusal(alone)
    assert error.exit_code == 2
    assert "router_only" in error.message
    assert "router.prompt" in error.message
    assert "router.prompt" in error.remedy


ASKED = Routes(router="router.md", allowlist=("supervisor.md", "reviewer.md", "main.md"))
# What the router prompt said, the files that exist, and the words that a person needs to mend it.
CHOICES: dict[str, tuple[str, frozenset[str], list[str]]] = {
    "empty": ("", FILES, ["nothing", "router.prompt"]),
    "many lines": ("first\nsecond\nthird", FILES, ["3 lines", "'first'", "router.prompt"]),
    "unlisted": ("notes", FILES, ["'notes.md'", "router.md", "router.allowlist"]),
    "gated": ("main", FILES, ["'main.md'", "galph", "supervisor_prompt", "reviewer_prompt"]),
    "missing": ("reviewer", FILES - {"reviewer.md"}, ["'reviewer.md'", "router.md", "prompts_dir"]),
    "escaping": ("../main.md", FILES, ["'../main.md'", "prompts/"]),
}


def complaint(kind: str) -> str:
    said, files, _ = CHOICES[kind]
    error = refusal(ASKED, said, files)
    return f"{error.message}\n{error.remedy}"


@pytest.mark.parametrize("kind", CHOICES)
def test_a_refused_choice_is_named_with_its_setting(kind: str) -> None:
    assert [word for word in CHOICES[kind][2] if word not in complaint(kind)] == []


def test_a_refused_choice_is_named_with_the_list() -> None:
    kinds = ["empty", "many lines", "unlisted", "gated", "missing"]
    assert [kind for kind in kinds if "supervisor.md" not in complaint(kind)] == []


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "normal"),
    [
        ("main", "main.md"),
        ("main.md", "main.md"),
        (" main.md\n", "main.md"),
        ("./main", "main.md"),
        ("prompts/main", "main.md"),
        ("prompts/main.md", "main.md"),
        ("./prompts//main.md", "main.md"),
        ("team/main", "team/main.md"),
        ("prompts/team/main.md", "team/main.md"),
        ("team/prompts/main.md", "team/prompts/main.md"),
        ("prompts2/main.md", "prompts2/main.md"),
        ("prompts", "prompts.md"),
        ("v1.2", "v1.2.md"),
        ("main.md.bak", "main.md.bak.md"),
        ("..main", "..main.md"),
    ],
)
def test_a_name_has_one_form(name: str, normal: str) -> None:
    assert normalise(name) == normal


@pytest.mark.parametrize(
    ("name", "folder", "normal"),
    [
        ("agents/prompts/main.md", "agents/prompts", "main.md"),
        ("agents/prompts/team/main", "agents/prompts/", "team/main.md"),
        ("prompts/main.md", "agents/prompts", "prompts/main.md"),
        ("agents/main.md", "agents/prompts", "agents/main.md"),
        ("prompts/main.md", ".", "prompts/main.md"),
        ("agents/main", "./agents", "main.md"),
    ],
)
def test_the_prompts_folder_is_the_configured_one(name: str, folder: str, normal: str) -> None:
    assert normalise(name, folder) == normal


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        ".",
        "./",
        "..",
        "../main.md",
        "team/../../main.md",
        "team/../main.md",
        "prompts/..",
        "/main.md",
        " /etc/passwd",
        "//server/main.md",
        "team\\main.md",
        "..\\main.md",
        "C:\\main.md",
        "main\0.md",
        "main.md\0",
    ],
)
def test_a_name_that_leaves_the_prompts_folder_is_refused(name: str) -> None:
    with pytest.raises(RouteError) as caught:
        normalise(name, "agents")
    assert caught.value.code == "route-escape"
    assert repr(name) in caught.value.message
    assert "agents/" in caught.value.message
    assert "agents/" in caught.value.remedy


PATH_PIECES = st.lists(st.sampled_from(["..", ".", "/", "//", "prompts", "main", ".md", " ", "\\", "~", "\0", "\n"]))


@given(st.text() | PATH_PIECES.map("".join), st.sampled_from(["prompts", "agents/prompts", ".", "prompts/"]))
@example("prompts/../../x", "prompts")
@example("./ 0", "prompts")
@example("./ /0", "prompts")
def test_whatever_the_name_its_file_lies_below_the_folder(name: str, folder: str) -> None:
    try:
        normal = normalise(name, folder)
    except RouteError:
        return
    path = posixpath.normpath(posixpath.join("/project/prompts", normal))
    assert path == f"/project/prompts/{normal}"
    assert normal.endswith(".md")
    assert normalise(normal, "a-folder-that-no-name-mentions") == normal


# --- every configuration ---------------------------------------------------------------------------------------------

names = st.sampled_from(["supervisor.md", "main.md", "reviewer.md", "notes.md", "team/plan.md"])
configurations = st.builds(
    Routes,
    supervisor=names,
    main=names,
    reviewer=names,
    router=st.sampled_from([None, "router.md"]),
    enabled=st.sampled_from([True, True, True, False]),
    mode=st.sampled_from(Mode),
    review_every_n=st.integers(min_value=-1, max_value=5),
    allowlist=st.just(()) | st.lists(names, min_size=3).map(tuple),
)
answers = (
    st.none()
    | st.builds(str.format, st.sampled_from(["{}", "`{}`", "prompts/{}", " {}\n", "{}\n{}", "../{}"]), names, names)
    | st.text()
)
present = st.just(FILES) | st.frozensets(names)
CODES = {
    "route-escape",
    "route-gated",
    "route-missing-file",
    "route-no-choice",
    "route-no-router",
    "route-unlisted",
}


class Files:
    """A prompts folder that remembers what it was asked for."""

    def __init__(self, names: frozenset[str]) -> None:
        self.names = names
        self.asked: list[str] = []

    def exist(self, name: str) -> bool:
        """Tell whether the prompt has a file."""
        self.asked.append(name)
        return name in self.names


def outcome(
    actor: Actor, iteration: int, routes: Routes, override: str | None, files: Files
) -> Decision | tuple[str, str]:
    try:
        return route(actor, iteration, routes, override, files.exist)
    except RouteError as error:
        return error.code, error.message


@given(st.sampled_from(Actor), st.integers(min_value=1, max_value=100), configurations, answers, present)
@settings(max_examples=400)
def test_no_configuration_and_no_answer_leads_out_of_the_gate(
    actor: Actor, iteration: int, routes: Routes, override: str | None, present: frozenset[str]
) -> None:
    files, same_files = Files(present), Files(present)
    decision = outcome(actor, iteration, routes, override, files)
    assert outcome(actor, iteration, routes, override, same_files) == decision  # nothing is remembered
    assert same_files.asked == files.asked
    if not isinstance(decision, Decision):
        assert decision[0] in CODES
        return

    own = {"galph": routes.supervisor, "ralph": routes.main}[actor]
    listed = set(routes.allowlist) if routes.allowlist else {routes.supervisor, routes.main, routes.reviewer}
    assert decision.prompt in present
    assert decision.prompt in files.asked
    if actor is RALPH or not routes.enabled:
        assert (decision.prompt, decision.source) == (own, Source.ACTOR)
    if routes.enabled:
        assert decision.prompt in listed
        assert decision.prompt in {own, routes.reviewer}
    if actor is GALPH and routes.enabled and routes.router:
        assert decision.source is Source.OVERRIDE
        assert decision.prompt in f"{override}.md"
    elif actor is GALPH and routes.enabled:
        assert (decision.source is Source.REVIEW) == (
            routes.review_every_n > 0 and not iteration % routes.review_every_n
        )


@given(st.integers(min_value=1, max_value=100), configurations, answers)
def test_ralphs_turn_does_not_depend_on_cadence_mode_router_or_answer(
    iteration: int, routes: Routes, answer: str | None
) -> None:
    plain = Routes(supervisor=routes.supervisor, main=routes.main, reviewer=routes.reviewer, allowlist=routes.allowlist)
    expected = (
        "route-unlisted" if routes.allowlist and routes.main not in routes.allowlist else f"{routes.main} by actor"
    )
    assert decide(plain, actor=RALPH) == expected
    if routes.enabled:
        assert decide(routes, actor=RALPH, iteration=iteration, override=answer) == expected
