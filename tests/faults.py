"""The faults and what is promised of each, in words; the tests that prove it find their row by their ids."""

import re
from collections.abc import Iterable
from typing import NamedTuple

NUMBERED = re.compile(r"(?<![a-z])fault[-_](\d+)(?!\d)")
"""How a test tells its fault, in its name or in the id of its parameters: `test_fault_27_`, `[fault-27-rewound]`."""


class Fault(NamedTuple):
    """A fault, its promise, and what is still open about it: "" where nothing may be."""

    what: str
    promise: str
    open: str = ""


_CLONE = "odd clones and disks"
_HOST = "what the machine does to a run"

FAULTS: dict[int, Fault] = {
    1: Fault("killed before the claim's commit is made", "no trace; the next start claims anew"),
    2: Fault("killed after the claim's commit, before its push", "a claim that was not pushed counts for nothing"),
    3: Fault("killed while the claim's push is under way", "a late landing is known by its nonce and gone on with"),
    4: Fault("killed while the agent runs", "the tree is kept, the old processes are dead, and the turn runs again"),
    5: Fault("killed after the agent has ended", "the work is handed off; no agent is run again"),
    6: Fault("killed between the hand-off's commit and its push", "the same hand-off is pushed; no agent runs again"),
    7: Fault("killed after the hand-off's push", "the turn is over; there is no second hand-off"),
    8: Fault("killed at any system call of git", "the next start recovers without a person"),
    9: Fault(
        "a power cut leaves an empty object, ref or index", "told with the way to mend it; nothing is built on it"
    ),
    10: Fault("a power cut leaves half a state or journal", "refused with the last valid version; never guessed"),
    11: Fault("the server dies after it has moved the branch", "the hand-off counts once"),
    12: Fault("the server dies and leaves a lock", "tried again ever more slowly, and told"),
    13: Fault("the connection is cut at any byte", "the remote is read again before anything is decided"),
    14: Fault("the remote is away for an hour", "waited out; no agent is run again"),
    15: Fault("the remote stalls", "every call ends; then it is waited out"),
    16: Fault("answers are lost on their way back", "what has landed is found by reading the remote again"),
    17: Fault("the remote's name cannot be resolved", "waited out as an outage"),
    18: Fault("credentials expire", "tried again slowly; told what to renew; the work is kept"),
    19: Fault("the host's key has changed", "told with the remedy, never accepted; the work is kept"),
    20: Fault("a hook of the server rejects the push", "exit 3 with what it said; the work is kept"),
    21: Fault("the branch is protected", "exit 3 with the remedy; the work is kept"),
    22: Fault("the server throttles", "at most two pushes a turn and a heartbeat a minute; ever longer waits"),
    23: Fault("the server's disk is full", "tried again slowly, and told"),
    24: Fault("a person pushes while the agent runs", "both are merged, and the turn is handed off once"),
    25: Fault("a person pushes what conflicts with the turn", "the work is kept, and the turn fails with `conflict`"),
    26: Fault("a person edits the state while the agent runs", "a valid newer epoch is honoured: the turn is fenced"),
    27: Fault("the remote's branch is moved back or rewritten", "exit 3; nothing is published over it"),
    28: Fault("the remote's branch is deleted", "exit 3; it is never made anew"),
    29: Fault("the remote's branch is renamed", "exit 3; no other branch is used"),
    30: Fault("one role runs on two machines", "one claim wins; the other waits"),
    31: Fault("one role is started twice in a clone", "the second start exits 7 and names the first"),
    32: Fault("a clone is copied", "the copy has an id of its own and owns no turn"),
    33: Fault("two claims are alike but for their nonce", "one wins; `up to date` is no claim"),
    34: Fault("a stale holder pushes after its turn was taken", "the push is rejected; its work is kept"),
    35: Fault("a stale holder merges and pushes again", "the fence stops it first; its work is kept"),
    36: Fault("the peer sleeps", "its turn is taken only after a whole lease without life, timed here"),
    37: Fault("clocks differ by a year", "nothing depends on them; told"),
    38: Fault("the clock jumps back", "nothing depends on it"),
    39: Fault("the machine sleeps for eight hours", "the turn is still ours, or it is fenced"),
    40: Fault("tracked files are changed before a turn", "exit 3 with their names; with --allow-dirty they are kept"),
    41: Fault("an untracked file is in the way", "exit 3 with its name; it stays as it is"),
    42: Fault("another branch is checked out", "exit 3 with the command; the tree is left alone"),
    43: Fault("HEAD is detached", "exit 3 with the command; the tree is left alone"),
    44: Fault("a merge or a rebase is in progress", "exit 3; it is never given up for a person"),
    45: Fault("a killed git of a turn left locks", "removed, where no git works here and they are the turn's; told"),
    46: Fault("somebody else's git left locks", "left alone and named"),
    47: Fault("garbage collection runs beside a turn", "what the turn needs is pinned first", _CLONE),
    48: Fault("a pack is corrupt", "exit 3 with the commands", _CLONE),
    49: Fault("the disk or its inodes are full", "no claim below the threshold; logs are given up first", _CLONE),
    50: Fault("the disk is read-only", "exit 3; classified", _CLONE),
    51: Fault("the repository belongs to somebody else", "exit 3 with the safe.directory command", _CLONE),
    52: Fault("the clone is shallow", "told at the start with the remedy", _CLONE),
    53: Fault("submodules are changed", "told at the start; never forced", _CLONE),
    54: Fault("Git LFS is missing or its files are", "told at the start with the remedy", _CLONE),
    55: Fault("the clone is a linked work tree", "works: git is asked where its files lie", _CLONE),
    56: Fault("the state is missing at the remote", "both roles exit 3; the last valid version is named"),
    57: Fault("the state is truncated", "both roles exit 3; the last valid version is named"),
    58: Fault("the state holds conflict markers", "both roles exit 3; the last valid version is named"),
    59: Fault("the state is of a newer program", "both roles exit 3; fields that are not known survive"),
    60: Fault("the state names an unknown actor", "both roles exit 3; the last valid version is named"),
    61: Fault("the state went backwards", "both roles exit 3; the last valid version is named"),
    62: Fault("state or logs lead out of the project", "refused before anything is written, on every bus"),
    63: Fault("the agent edits the state", "restored and told; only the exit flag is taken"),
    64: Fault("the agent commits a secret", "withheld: kept here, and not published"),
    65: Fault("the agent makes a huge file", "a leftover stays where it is, a committed one is withheld; named"),
    66: Fault("the agent leaves its branch or rewrites it", "put back on its claim where it can be; else withheld"),
    67: Fault("the agent pushes, or forces a push", "accepted on its claim; over what was published: exit 3"),
    68: Fault("the agent changes the remote, or adds hooks", "exit 3 with what changed; hooks are never run"),
    69: Fault("the agent takes the git dir away", "exit 3 with the remedy; every file stays"),
    70: Fault("the agent leaves processes behind", "none is alive when the turn is handed off", _HOST),
    71: Fault("the agent hangs", "ended after the time without a word, or in all", _HOST),
    72: Fault("the agent floods its output", "both streams are read to the end; logs are capped", _HOST),
    73: Fault("the exit code does not tell of the work", "the code decides; the work is kept", _HOST),
    74: Fault("SIGTERM", "ended within 30 s; the next start goes on", _HOST),
    75: Fault("SIGHUP", "ended within 30 s; the next start goes on", _HOST),
    76: Fault("Ctrl-C twice", "the second kills; the next start goes on", _HOST),
    77: Fault("a reboot, and process ids come again", "a process is known by more than its id", _HOST),
    78: Fault("the file system has no locks", "refused", _HOST),
    79: Fault("git is upgraded, or gone", "its version is looked at; told", _HOST),
    80: Fault("a prompt for a signature, or a hook, hangs", "ended; told", _HOST),
}


UNPROVED = "none"
"""What stands where a promise has no test and is not open: the page is not to be published like that."""


def numbers(node: str) -> list[int]:
    """Return the faults that a test, by its node id, is about."""
    return [int(number) for number in NUMBERED.findall(node.partition("::")[2])]


def rows(nodes: Iterable[str]) -> dict[int, list[str]]:
    """Return the test functions of each fault, in the order of the node ids.

    Raises:
        KeyError: a test is about a fault that there is not.

    """
    found: dict[int, dict[str, None]] = {number: {} for number in FAULTS}
    for node in nodes:
        for number in numbers(node):
            found[number][node.partition("[")[0]] = None
    return {number: list(tests) for number, tests in found.items()}


def table(nodes: Iterable[str]) -> str:
    """Return the table of all faults, with what proves each promise."""
    lines = [
        f"| {number} | {FAULTS[number].what} | {FAULTS[number].promise} | {_cell(FAULTS[number], tests)} |"
        for number, tests in rows(nodes).items()
    ]
    return "\n".join(["| # | fault | promise | test |", "|---:|---|---|---|", *lines])


def _cell(fault: Fault, tests: list[str]) -> str:
    named = [f"`{test}`" for test in tests]
    return "<br>".join([*named, *([f"*open*: {fault.open}"] if fault.open else [])]) or UNPROVED
