import os
import time

import pytest

from lucidlm.errors import DataError, LucidError, WeightsError
from lucidlm.runs.checkpoints import last_checkpoint
from lucidlm.runs.data import design_of_run
from lucidlm.runs.history import read_history
from lucidlm.runs.run_toml import read_toml
from lucidlm.runtime.manifest import read_manifest
from lucidlm.runtime.small_files import lines_of, read_small_file, read_small_json


def test_a_plain_file_and_a_link_to_one_are_read(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert read_small_file(tmp_path / "a", 5, DataError) == b"12345"
    assert read_small_file(tmp_path / "b", 5, DataError) == b"12345"
    with pytest.raises(WeightsError, match=r"b: 5 bytes, .*\b4\b"):
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
        with pytest.raises(DataError, match=f"{name}: {kind}, "):
            read_small_file(tmp_path / name, 1 << 20, DataError)
    assert time.monotonic() - start < 5


def test_a_file_without_a_size_is_still_limited():
    """Files in /proc are 0 bytes long to stat, and have an end that nobody knows before."""
    path = "/proc/self/smaps"
    if not os.path.exists(path):
        pytest.skip("needs /proc")
    with pytest.raises(DataError, match=r"\b101 bytes, .*\b100\b"):
        read_small_file(path, 100, DataError)


def test_lines_are_limited_one_by_one_and_json_in_depth(tmp_path):
    (tmp_path / "a").write_bytes(b"1\n22\n333")
    assert list(lines_of(tmp_path / "a", DataError)) == [b"1\n", b"22\n", b"333"]
    with pytest.raises(DataError, match=r"a:2: .*\b2 bytes"):
        list(lines_of(tmp_path / "a", DataError, 2))
    (tmp_path / "b").write_bytes(b"[" * 100_000)
    with pytest.raises(ValueError):
        read_small_json(tmp_path / "b", DataError)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs and devices")
@pytest.mark.parametrize("kind", ["/dev/zero", "fifo"])
def test_a_runs_own_files_are_read_with_the_same_limits(tmp_path, kind):
    """One line, or what is said of a file that is not there, and at once."""

    def put(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(path) if kind == "fifo" else path.symlink_to(kind)

    for name in ("metrics.jsonl", "run.toml", "manifest.json", "data/manifest.json", "data/prepared.json"):
        put(tmp_path / name)
    put(tmp_path / "checkpoints" / "step_000001" / "manifest.json")
    start = time.monotonic()
    for read in (read_history, lambda run: read_toml(run / "run.toml"), read_manifest, last_checkpoint):
        with pytest.raises(LucidError) as refused:
            read(tmp_path)
        assert "\n" not in str(refused.value)
    assert design_of_run(tmp_path) == "given"
    assert time.monotonic() - start < 10
