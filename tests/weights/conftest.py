"""What the tests of foreign files share: a limit on memory, and a release to damage."""

import shutil
from pathlib import Path

import pytest
from releases import FILES, FIXTURE


@pytest.fixture
def limited():
    """No more than 2 GB of address space beyond what the process has."""
    resource = pytest.importorskip("resource")
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("the size of this process is not known")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(statm.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (2 << 30), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture
def folder(tmp_path):
    """A copy of OpenAI's release, to be damaged."""
    for name in FILES:
        shutil.copy(FIXTURE / name, tmp_path / name)
    return tmp_path
