"""No secret that passes an agent's output reaches a log, the journal, the state or the screen, however it is cut."""

import base64
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conftest import Capture, Project
from orchestration.masking import Mask, known

OWN = [
    b"hunter2-of-the-Machine",
    b'with "quotes" and \\ in it',
    b"two long lines\nare one secret\n",
    b"0123456789abcdef",
]
KEY = b"-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEAx9\nq2rTzY8abcd/+==\n-----END RSA PRIVATE KEY-----"
BODY = [b"MIIEowIBAAKCAQEAx9", b"q2rTzY8abcd/+=="]
JWT = b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTYifQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
SHAPED = {
    "github": b"ghp_" + b"aB3dE6" * 6,
    "github-app": b"ghs_" + b"aB3dE6" * 6,
    "github-fine": b"github_pat_" + b"A1b2C3" * 4 + b"_" + b"z9Y8x7" * 9,
    "openai": b"sk-" + b"aB3dE6gH" * 6,
    "openai-project": b"sk-proj-" + b"aB3-E6_H" * 6,
    "anthropic": b"sk-ant-api03-" + b"aB3-E6_H" * 11 + b"AA",
    "aws-id": b"AKIAQWERTYUIOP123456",
    "google": b"AIza" + b"aB3-E" * 7,
    "slack": b"xoxb-123456789012-1234567890123-aBcDeFgHiJkL",
    "gitlab": b"glpat-" + b"aB3-E" * 4,
    "npm": b"npm_" + b"aB3dE6" * 6,
    "pypi": b"pypi-AgEIcHlwaS5vcmc" + b"CJGFiY2" * 20,
    "stripe": b"sk_live_" + b"aB3dE6" * 4,
    "stripe-restricted": b"rk_live_" + b"aB3dE6" * 4,
    "jwt": JWT,
}
NAMED = {
    "aws-secret": (b"aws_secret_access_key = %s\n", b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYzzzzzzzzzz"),
    "aws-secret-json": (b'{"SecretAccessKey": "%s"}', b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYzzzzzzzzzz"),
    "bearer": (b"Authorization: Bearer %s\n", b"abc.def-ghi_jkl~mno"),
    "bearer-json": (b'{\\"authorization\\": \\"Bearer %s\\"}', b"abc.def-ghi_jkl~mno"),
    "url": (b"https://me:%s@localhost/x", b"correct-horse"),
}


def masked(pieces: Sequence[bytes], secrets: Sequence[bytes] = OWN) -> bytes:
    """Pass pieces of a stream."""
    mask = Mask(secrets)
    return b"".join([*(mask.feed(piece) for piece in pieces), mask.close()])


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """Cut data at these places."""
    return [
        data[begin:end] for begin, end in pairwise([0, *sorted(place % (len(data) + 1) for place in places), len(data)])
    ]


def parts(secret: bytes) -> set[bytes]:
    """Return the first and the last eight bytes."""
    return {secret[:8], secret[-8:]}


PLAIN = st.text(st.sampled_from('abc -_:/."\\\n{}[]@IJzKé0'), max_size=40).map(str.encode)
SECRET = st.sampled_from([*SHAPED.values(), *OWN, *(form % secret for form, secret in NAMED.values()), KEY])
BETWEEN = st.sampled_from([b" ", b"\n", b'"', b", ", b"\\n", b"\\\\"])


@given(st.lists(st.tuples(PLAIN, BETWEEN, SECRET, BETWEEN)), st.lists(st.integers(0, 1 << 16)))
@example([(b"", b" ", KEY.replace(b"\n", b"\\n"), b'"')], [40, 41])
@example([(b"x" * 5000, b" ", JWT, b" ")], [4990, 5005, 5020])
def test_however_a_stream_is_cut_it_is_masked_alike_and_no_secret_survives(
    told: list[tuple[bytes, bytes, bytes, bytes]], places: list[int]
) -> None:
    data = b"".join(b"".join(piece) for piece in told)
    seen = masked(cut(data, places))

    assert seen == masked([data])
    hidden = [
        part for _, _, secret, _ in told for part in parts(secret) if secret in [*SHAPED.values(), OWN[0], OWN[3]]
    ]
    hidden += [secret for form, secret in NAMED.values() if form % secret in data]
    hidden += [line for _, _, secret, _ in told for line in BODY if secret == KEY]
    assert [part for part in hidden if part in seen] == []
    assert seen.count(b"\n") == data.count(b"\n")


@given(st.binary(max_size=300), st.lists(st.integers(0, 1 << 16)))
def test_what_holds_no_secret_passes_byte_for_byte(data: bytes, places: list[int]) -> None:
    assert masked(cut(data, places), []) == data


@pytest.mark.parametrize(
    "file", sorted(Path(__file__).parents[1].glob("scripts/orchestration/*.py")), ids=lambda p: p.name
)
def test_the_program_s_own_source_passes_byte_for_byte(file: Path) -> None:
    assert masked([file.read_bytes()]) == file.read_bytes()


@pytest.mark.parametrize("secret", SHAPED.values(), ids=SHAPED)
def test_a_known_token_becomes_one_word(secret: bytes) -> None:
    assert masked([b"before " + secret + b" after\n"]) == b"before *** after\n"
    assert masked([b'{"text":"\\n' + secret + b'\\n"}\n']) == b'{"text":"\\n***\\n"}\n'


@pytest.mark.parametrize(("form", "secret"), NAMED.values(), ids=NAMED)
def test_what_stands_behind_a_telling_name_is_hidden_and_the_name_stays(form: bytes, secret: bytes) -> None:
    assert masked([form % secret]) == form % b"***"


def test_a_key_s_lines_are_hidden_and_stay_lines_also_as_a_tool_numbers_them_and_json_has_them() -> None:
    assert masked([KEY]) == b"-----BEGIN RSA PRIVATE KEY-----***\n\n\n-----END RSA PRIVATE KEY-----"
    numbered = b"".join(b"%6d\xe2\x86\x92%s\n" % row for row in enumerate(KEY.split(b"\n"), 1))
    assert not any(line in masked([numbered]) for line in BODY)
    said = json.dumps({"result": json.dumps({"text": KEY.decode() + "\n"})}).encode()
    assert json.loads(json.loads(masked([said]))["result"])["text"].startswith("-----BEGIN RSA PRIVATE KEY-----***")
    assert not any(line in masked([said]) for line in BODY)


def test_a_key_s_first_line_that_is_only_quoted_hides_nothing_after_it() -> None:
    text = b'grep: "-----BEGIN PRIVATE KEY-----"\nand so on, for ever.\n'
    assert masked([text]) == text.replace(b'KEY-----"', b'KEY-----***"')


def test_a_secret_of_the_environment_is_hidden_as_json_and_as_base64_too() -> None:
    secret = OWN[1]
    for form in (
        secret,
        json.dumps(secret.decode())[1:-1].encode(),
        base64.b64encode(secret),
        base64.b64encode(secret + b"\n"),
    ):
        assert masked([b"<" + form + b">"]) == b"<***>"
    assert masked([OWN[2]]) == b"***\n***\n"
    assert json.loads(masked([json.dumps([each.decode() for each in OWN]).encode()])) == ["***"] * 4


def test_json_stays_json_where_a_token_seems_to_begin_in_an_escape() -> None:
    line = b'{"text":"\\npm_' + b"aB3dE6" * 6 + b'"}'
    assert json.loads(masked([line])) == {"text": "\n***"}


def test_a_line_without_an_end_is_held_back_no_longer_than_a_secret_could_be() -> None:
    mask = Mask([b"s" * 9000])
    assert mask.feed(b"a line\nPassword: ") == b"a line\n"
    assert mask.feed(b"x" * 20_000) == b"Password: " + b"x" * 8000
    assert mask.close() == b"x" * 12_000  # what base64 makes of it
    mask = Mask([])
    assert mask.feed(b"Working" + b"." * 10) == b"Working.........."
    assert len(mask.feed(b"\\" * 10_000)) == 10_000 - 4096
    assert mask.feed(KEY[:-50] + b"\n" + b"A" * 100_000) == b"\\" * 4096 + b"-----BEGIN RSA PRIVATE KEY-----***\n\n"


def test_secrets_of_an_environment_are_known_by_their_names_and_in_addresses() -> None:
    held = {
        "OPENAI_API_KEY": "a-key-of-mine",
        "GH_TOKEN": "a-token-of-mine",
        "DB_PASSWORD_2": "a-password",
        "AUTH": "an-auth-value",
        "http_proxy": "http://me:pass%40word@proxy:80",
        "STAGE_SECRET": "short",
        "SSH_AUTH_SOCK": "/run/user/ssh/agent.1",
        "GOOGLE_APPLICATION_CREDENTIALS": "~/keys/google.json",
        "MAX_TOKEN": "1000000000",
        "AUTHOR_NAME": "somebody of note",
        "KEYBOARD": "a-long-layout",
        "HOME": "/home/somebody",
    }
    assert sorted(known(held)) == [
        b"a-key-of-mine",
        b"a-password",
        b"a-token-of-mine",
        b"an-auth-value",
        b"pass%40word",
        b"pass@word",
    ]


# --- in a run ---------------------------------------------------------------------------------------------------------

MINE = "hunter2-of-the-Machine"
PRINTS = """
    printf 'my key is hunter2-of'; sleep 0.1; printf -- '-the-Machine\\n'
    printf 'and hunter2-of' >&2; sleep 0.1; printf -- '-the-Machine' >&2
    printf '\\n### Turn Summary\\nI used %s' "$MY_API_KEY"
"""


def places(project: Project) -> list[Path]:
    """Return the files that hold the secret: logs, git dir with the journal, state."""
    files = [path for path in project.path.rglob("*") if path.is_file()]
    return [path for path in files if MINE.encode() in path.read_bytes()]


@pytest.mark.parametrize("ends", ["exit 0", "exit 9"])
@pytest.mark.usefixtures("ralphs_turn")
def test_what_an_agent_prints_of_its_own_secrets_reaches_no_file_and_no_screen(
    project: Project, capfd: Capture, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    monkeypatch.setenv("MY_API_KEY", MINE)
    gate = 'echo "gate: $MY_API_KEY"; false'
    args = ("run", "-n", "1", "-c", f"actors.ralph.gates=[{json.dumps(gate)}]")
    assert project.call(*args, "--agent", project.agent(PRINTS + ends)) == 4

    told = capfd.readouterr()
    assert "my key is ***" in told.out
    assert MINE not in told.out + told.err
    assert places(project) == []
    (log,) = project.path.glob("logs/main/latest/*.log")
    assert log.read_bytes().count(b"***") == 3 + (ends == "exit 0")
    (message,) = project.path.glob("logs/main/latest/iter-*.md")
    assert message.read_text() == "### Turn Summary\nI used ***\n"
    tail = project.state()["failure"]["tail"]
    assert "***" in "".join(tail) if ends == "exit 9" else tail == ["gate: ***"]


@pytest.mark.parametrize("before", [(256 << 10) - 20, (256 << 10) + 5, (1 << 20) - 60])
def test_a_secret_is_hidden_wherever_in_a_large_read_it_stands(before: int) -> None:
    token = b"ghp_" + b"Ab3" * 12
    flood = b"0123456789abcde\n" * (before // 16) + b"x" * (before % 16)

    assert masked([flood + token + b"\n"]) == flood + b"***\n"


@pytest.mark.usefixtures("ralphs_turn")
def test_a_secret_that_the_configuration_gives_an_agent_is_one_too(project: Project, capfd: Capture) -> None:
    text = {"agents": {"mine": {"command": [project.agent(PRINTS + "exit 9")], "env": {"MY_API_KEY": MINE}}}}
    project.write("orchestration.yaml", json.dumps(text))
    project.commit("an agent")
    before = places(project)
    assert project.call("run", "-n", "1", "--agent", "mine") == 4
    told = capfd.readouterr()
    assert "my key is ***" in told.out
    assert MINE not in told.out + told.err + project.git("show", "HEAD")
    assert places(project) == before, "the person's own file"
    publishes = project.agent('echo "$MY_API_KEY" >key.txt; git add .; git commit -qm key', name="publishes")
    project.write(
        "orchestration.yaml", json.dumps({"agents": {"mine": text["agents"]["mine"] | {"command": [publishes]}}})
    )
    project.commit("another agent")
    assert project.call("retry") == 0
    assert project.call("run", "-n", "1", "-q", "--agent", "mine") == 4
    assert project.state()["failure"]["code"] == "secret"


@pytest.mark.usefixtures("ralphs_turn")
def test_masking_can_be_switched_off(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", MINE)
    assert project.call("run", "-n", "1", "-q", "-c", "logs.mask=false", "--agent", project.agent(PRINTS)) == 0
    assert {path.suffix for path in places(project)} >= {".log", ".md"}


@pytest.mark.usefixtures("ralphs_turn")
def test_what_goes_into_the_state_is_masked_even_so(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", MINE)
    agent = project.agent(PRINTS + "exit 9")
    assert project.call("run", "-n", "1", "-q", "-c", "logs.mask=false", "--agent", agent) == 4
    failure = project.state()["failure"]
    assert "my key is ***" in failure["tail"]
    assert MINE not in json.dumps(failure)
    assert MINE in next(project.path.glob("logs/main/latest/*.log")).read_text()
