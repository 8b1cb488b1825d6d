"""What is kept of a bug; imported when there is one, as a command is when it is used."""

import sys
import tempfile
import traceback

import orchestration
from orchestration.errors import OrchestrationError


def kept(error: Exception) -> OrchestrationError:
    """Keep the traceback in a file, and return what a person is told.

    Raises:
        OSError: there is no place for a temporary file.

    """
    text = "".join(traceback.format_exception(error))
    with tempfile.NamedTemporaryFile("w", prefix="orchestrator-bug-", suffix=".log", delete=False) as stream:
        stream.write(f"orchestrator {orchestration.__version__}, Python {sys.version}\n{text}")
    cause = f"a bug: {type(error).__name__}: {error}"
    return OrchestrationError(cause, code="bug", remedy=f"the traceback is in {stream.name}")
