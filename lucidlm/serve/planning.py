"""A form comes in, the plan that a training by it would make goes out, from a process that then ends.

A plan measures the machine and sets threads for its whole process, so it is not made in the server's own.
`python -m lucidlm.serve.planning` reads the request on standard input and writes the plan as a line of JSON.
"""

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lucidlm.errors import LucidError, ServerError
from lucidlm.runtime.interpreter import own_flags
from lucidlm.runtime.wording import one_line
from lucidlm.serve.document_view import renamed
from lucidlm.serve.documents import Documents
from lucidlm.serve.faults import json_text
from lucidlm.serve.run_forms import STORY, PlanForm, config_of

PLAN_S = 60.0
"""A plan takes a few seconds, and as much longer as it takes to prepare the text."""


class Plans:
    """Plans, one at a time; the text that was prepared for one is there for the next."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._turn = asyncio.Semaphore(1)
        self._folder: Path | None = None

    async def plan(self, form: PlanForm) -> dict[str, Any]:
        """The plan; ServerError or lucidlm's own words where there can be none."""
        document = None if form.text == STORY else self._documents.find(form.text)
        config_of(form)  # refuses at once what lucidlm would refuse
        async with self._turn:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="lucidlm-plan-"))
            asked = {
                "form": form.model_dump(mode="json", exclude_none=True),
                "text": [] if document is None else [str(document.path)],
                "folder": str(self._folder),
            }
            answer = await _answered(asked)
        if document is not None:
            answer = renamed(answer, str(document.path), document.name)
        if (refused := answer.get("error")) is not None:
            raise LucidError(refused)
        return answer

    def close(self) -> None:
        """Deletes the text that was prepared."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


async def _answered(asked: dict[str, Any]) -> dict[str, Any]:
    """What the process says; it is ended where nobody waits for it any more."""
    process = subprocess.Popen(
        [sys.executable, *own_flags(), "-m", "lucidlm.serve.planning"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    speaking = asyncio.get_running_loop().run_in_executor(None, _spoken, process, json.dumps(asked).encode())
    speaking.add_done_callback(lambda done: done.exception())  # nobody may wait for it any more
    try:
        # Shielded: the thread ends the process and its pipes also where the client has left before it began.
        out, err = await asyncio.shield(speaking)
    except subprocess.TimeoutExpired:
        advice = "start the training: it says its plan"
        raise ServerError(f"a plan for this text takes over {PLAN_S:g} s", advice, status=408) from None
    finally:
        process.kill()  # no effect where it has ended
    try:
        return json.loads(out.splitlines()[-1])
    except (ValueError, IndexError):
        last = one_line(next(iter(err.decode("utf-8", "replace").splitlines()[::-1]), ""))
        raise ServerError(f"no plan could be made: {last}", "start the training", status=500) from None


def _spoken(process: subprocess.Popen[bytes], request: bytes) -> tuple[bytes, bytes]:
    """What the process writes on both outputs; then it has ended, and its pipes are closed."""
    with process:
        try:
            return process.communicate(request, PLAN_S)
        finally:
            process.kill()


def plan_for(form: PlanForm, text: list[str], folder: Path) -> dict[str, Any]:
    """The plan of a training, as `train` would make it; `folder` keeps the prepared text."""
    from lucidlm.runtime.progress import SILENT
    from lucidlm.training.outline import details, outline
    from lucidlm.training.preview import preview, to_dict

    config = config_of(form, text=tuple(text))
    shown = preview(config, folder, SILENT)
    numbers = {name: value for name, value in to_dict(shown).items() if name not in ("device", "plan")}
    said = [*outline(shown.planned, config, shown.corpus), *details(shown.planned, shown.corpus)]
    return {"lines": said} | numbers


def main() -> None:
    """The process: a request on standard input, a plan or an error on standard output."""
    asked = json.load(sys.stdin)
    try:
        form = PlanForm.model_validate(asked["form"])
        answer = plan_for(form, asked["text"], Path(asked["folder"]))
    except LucidError as error:
        answer = {"error": str(error)}
    print(json_text(answer))


if __name__ == "__main__":
    main()
