"""docs/server.md: its code runs, its tables are those of the code."""

import re
from dataclasses import asdict
from pathlib import Path

from serving import running, served

from lucidlm.serve.forms import CompletionForm
from lucidlm.serve.limits import LIMITS

PAGE = (Path(__file__).parents[2] / "docs" / "server.md").read_text(encoding="utf-8")


def test_the_python_of_the_page_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    with running(served("book")) as server:
        exec(code.replace("http://127.0.0.1:8000", server.address), {})
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith("]")
    assert "[None, -" in last


def test_the_table_of_limits_is_that_of_the_code():
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", PAGE, re.MULTILINE)
    assert {name: float(value) for name, value in rows} == asdict(LIMITS)


def test_every_field_of_a_completion_is_on_the_page():
    table = PAGE.partition("| field |")[2].partition("\n\n")[0]
    assert set(CompletionForm.model_fields) - {"model"} <= set(re.findall(r"`(\w+)", table))
