"""The command line: one short function a verb. Results go to stdout, progress and notes to stderr.

Nothing here imports torch before a verb runs, so that --help answers at once.
"""

# Importing a module registers its verbs.
from lucidlm.cli import evaluation, judging, learning, listing, models, reporting, training, writing  # noqa: F401
from lucidlm.cli.entry import main
from lucidlm.cli.options import app

__all__ = ["app", "main"]
