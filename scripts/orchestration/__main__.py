"""The door `python -m orchestration`."""

from orchestration.cli import main

main()
