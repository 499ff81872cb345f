"""The package as it is built: the wheel holds its assets, and works without the source tree."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # The build's own tools are installed with the extra `test`: nothing is fetched.
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_the_code_its_assets_and_its_licences(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assets = {"lucidlm/text/assets/story.txt", "lucidlm/text/assets/gpt2.tiktoken"}
    assert assets | {"lucidlm/py.typed", "lucidlm/__main__.py"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("licenses/NOTICE") for name in names)
    assert not any(name.startswith(("tests/", "examples/")) for name in names)


@pytest.mark.slow
def test_the_wheel_works_away_from_the_source_tree(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import lucidlm, lucidlm.text.preparation as preparation\n"
        "assert lucidlm.__file__.startswith(sys.argv[1]), lucidlm.__file__\n"
        "assert lucidlm.Tokenizer.gpt2().encode('every effort moves you') == [16833, 3626, 6100, 345]\n"
        "assert preparation.prepare([], 'data', tokenizer='bytes').characters >= 40_000\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, str(site)], cwd=tmp_path, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
