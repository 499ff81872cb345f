"""The command line: one short function a verb. Results go to stdout, progress and notes to stderr.

Nothing here imports torch before a verb runs, so that --help answers at once.
"""

# Importing a module registers its verbs.
from lucidlm.cli import (  # noqa: F401
    evaluation,
    judging,
    learning,
    listing,
    manual,
    models,
    planning,
    reporting,
    serving,
    training,
    writing,
)
from lucidlm.cli.entry import main
from lucidlm.cli.options import app

__all__ = ["app", "main"]
