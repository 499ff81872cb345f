import sys

import pytest
from crash import crash_of


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
def test_a_crash_is_its_signals_name_and_nothing_else():
    program = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"
    assert crash_of([sys.executable, "-X", "faulthandler", "-c", program]) == "SIGILL"
    assert crash_of([sys.executable, "-c", "raise SystemExit('no such file')"]) == "no such file"
    assert crash_of([sys.executable, "-c", ""]) is None
