"""What goes on beside an agent: tasks that yield what they wait for, in the one loop."""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from orchestration.event_loop import Timer
from orchestration.process import Loop, Started

Pending = Started | Timer
Result = TypeVar("Result")
Task = Generator[Pending, None, Result]
"""Yields each child and each timer that it needs the end of, and goes on after it; never waits by itself."""


def complete(loop: Loop, task: Task[Result]) -> Result:
    """Serve everything until the task has ended; return its result."""
    while True:
        try:
            pending = next(task)
        except StopIteration as end:
            result: Result = end.value
            return result
        loop.run_until(partial(_is_over, pending))


@contextmanager
def background(loop: Loop, *tasks: Task[None]) -> Iterator[Callable[[], None]]:
    """Run tasks while others are served; what is given has those go on that need not wait. The end cuts them short."""
    pending = {task: next(task, None) for task in tasks}

    def go_on() -> None:
        for task in tasks:
            while (waits := pending[task]) and _is_over(waits):
                pending[task] = next(task, None)
                loop.wake()  # the task may have served the loop: what arrived is looked at before the next wait

    try:
        yield go_on
    finally:
        for task, waits in pending.items():
            if isinstance(waits, Timer):
                waits.cancel()
            elif waits:
                waits.child.stop()
            task.close()


def _is_over(pending: Pending) -> bool:
    return pending.idle if isinstance(pending, Timer) else pending.ended
