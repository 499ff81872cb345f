"""The doors: links lead somewhere, the API reference has the public names, metadata agrees."""

import re
import tomllib
from pathlib import Path

import pytest

import lucidlm

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_link_of_a_page_leads_to_a_file_and_a_heading(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name) if name else page
        assert file.exists(), f"{page.name}: {target}"
        if page.parent.name == "docs":  # the site has no other files
            assert file.resolve().is_relative_to(ROOT / "docs"), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors_of(file), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_table_of_a_page_has_a_heading_of_its_own_line_with_as_many_cells(page):
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if re.fullmatch(r"\|(\s*:?-+:?\s*\|)+", line):
            heading = lines[number - 1]
            assert re.fullmatch(r"\|.*\|", heading), f"{page.name}:{number}: {heading}"
            assert len(re.findall(r"(?<!\\)\|", heading)) == line.count("|"), f"{page.name}:{number}"
            above = lines[number - 2] if number > 1 else ""
            assert not above.strip() or above.startswith(("<!--", "#")), f"{page.name}:{number - 1}: {above}"


def test_pages_name_files_of_tests_only_in_commands_that_run_them():
    for page in (ROOT / "docs").glob("*.md"):
        text = re.sub(r"`[^`]*\bpytest [^`]*`", "", page.read_text(encoding="utf-8"))
        assert "tests/" not in text, page.name


def test_the_site_lists_every_page():
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    assert set(re.findall(r"\w+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))) == pages
    linked = re.findall(r"\]\((\w+\.md)\)", (ROOT / "docs" / "index.md").read_text(encoding="utf-8"))
    assert {*linked} == pages - {"index.md"}


def test_the_architecture_names_the_files_that_there_are():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for room, said in re.findall(r"^\| `(\w+)/` \| (.*) \|$", page, re.MULTILINE):
        files = {path.stem for path in (ROOT / "lucidlm" / room).rglob("*.py")} - {"__init__"}
        if room != "cli":  # one module for each group of verbs
            assert {Path(name).stem for name in re.findall(r"`([\w./]+)`", said)} - {"formats"} == files, room


def test_the_api_reference_has_each_public_name_once():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    things = [getattr(lucidlm, name) for name in lucidlm.__all__]
    homes = sorted(f"{thing.__module__}.{thing.__name__}" for thing in things)
    assert sorted(re.findall(r"^::: (\S+)$", page, re.MULTILINE)) == homes


def test_the_workflow_runs_each_python_that_the_package_names():
    named = {line.rpartition(" :: ")[2] for line in PROJECT["classifiers"] if ":: 3." in line}
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    (matrix,) = re.findall(r"python: \[(.*)\]", workflow)
    assert {version.strip(' "') for version in matrix.split(",")} == named
    assert PROJECT["requires-python"] == f">={min(named, key=lambda v: int(v.partition('.')[2]))}"


def test_the_citation_has_the_version_of_the_package():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {lucidlm.__version__}\n" in citation
