"""python -m lucidlm: the command line."""

import sys

from lucidlm.cli import main

if __name__ == "__main__":
    sys.exit(main())
