"""The command line: one short function a verb. Results go to stdout, progress and notes to stderr.

Nothing here imports torch before a verb runs, so that --help answers at once.
"""

from lucidlm.cli import judging, listing, models, training, writing  # noqa: F401  (they register their verbs)
from lucidlm.cli.entry import main
from lucidlm.cli.options import app

__all__ = ["app", "main"]
