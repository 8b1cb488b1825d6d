"""Placeholder until the classifier lands."""

from enum import StrEnum
from typing import NamedTuple

from orchestration.process import Completed, Why


class Kind(StrEnum):
    """How a remote call ended."""

    OK = "ok"
    ALREADY = "already"
    CAS_LOST = "cas-lost"
    POLICY = "policy"
    NETWORK = "network"
    UNKNOWN = "unknown"


class Trouble(NamedTuple):
    """What a person is told of it."""

    kind: Kind
    text: str
    remedy: str


def classify(done: Completed) -> Kind:
    """Return how it ended."""
    if done.why is not Why.EXITED:
        return Kind.UNKNOWN
    if done.code == 0:
        return Kind.ALREADY if b"\n=\t" in done.stdout else Kind.OK
    if b"[rejected]" in done.stdout or b"failed to update ref" in done.stdout:
        return Kind.CAS_LOST
    if b"declined" in done.stdout:
        return Kind.POLICY
    return Kind.NETWORK


def trouble(done: Completed, remote: str, branch: str) -> Trouble:
    """Return what to say."""
    return Trouble(classify(done), done.stderr.decode(errors="replace").strip(), f"see {remote} {branch}")
