import os
import time

import pytest

from lucidlm.errors import DataError, WeightsError
from lucidlm.runtime.small_files import read_small_file


def test_a_plain_file_and_a_link_to_one_are_read(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert read_small_file(tmp_path / "a", 5, DataError) == b"12345"
    assert read_small_file(tmp_path / "b", 5, DataError) == b"12345"
    with pytest.raises(WeightsError, match="5 bytes, such a file has at most 4"):
        read_small_file(tmp_path / "b", 4, WeightsError)


def test_a_missing_file_is_the_callers_matter(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_small_file(tmp_path / "a", 5, DataError)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs and devices")
def test_what_never_ends_or_never_begins_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    start = time.monotonic()
    for name, kind in (("fifo", "a FIFO"), ("zero", "a device"), ("folder", "a folder")):
        with pytest.raises(DataError, match=f"{name}: {kind}, not a plain file"):
            read_small_file(tmp_path / name, 1 << 20, DataError)
    assert time.monotonic() - start < 5


def test_a_file_without_a_size_is_still_limited():
    """Files in /proc are 0 bytes long to stat, and have an end that nobody knows before."""
    path = "/proc/self/smaps"
    if not os.path.exists(path):
        pytest.skip("needs /proc")
    with pytest.raises(DataError, match="at most 100"):
        read_small_file(path, 100, DataError)
