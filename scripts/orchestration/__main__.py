"""The door `python -m orchestration`."""

from orchestration.orchestrator import main

main()
