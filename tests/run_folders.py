"""What tests ask of a run's folder: what a command said of it, and the folder as a former version left it."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file

from lucidlm.runtime.manifest import MANIFEST, write_manifest

WEIGHTS = "model.safetensors"
EVALUATE = ("--no-baselines", "--threads", "1", "--device", "cpu", "--json")
"""An evaluation of a moment."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> str:
        """All of it, where a sentence may stand."""
        return self.out + self.err


def without_hashes(folder: Path) -> Path:
    """The run as a former version would have left it: nothing in it vouches for anything."""
    (folder / MANIFEST).unlink()
    for name in ("metrics.jsonl", "samples.jsonl"):
        events = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        for event in events:
            del event["check"]
        (folder / name).write_text("".join(json.dumps(event) + "\n" for event in events))
    text = (folder / "run.toml").read_text()
    lines = text[: text.rindex("# run ")].splitlines(keepends=True)
    (folder / "run.toml").write_text(
        "".join(line for line in lines if not line.startswith("document_prefix_id"))
    )
    for weights in folder.rglob(WEIGHTS):
        save_file(load_file(weights), weights, {"format": "pt"})
    for manifest in (*folder.glob("checkpoints/*/manifest.json"), folder / "data" / MANIFEST):
        values = json.loads(manifest.read_text())
        extra = {key: value for key, value in values.items() if key not in ("files", "run", "kind")}
        if manifest.parent.name == "data":
            extra["kind"] = values["kind"]
        write_manifest(manifest.parent, extra)
        values = json.loads(manifest.read_text())
        del values["files"][MANIFEST]
        manifest.write_text(json.dumps(values))
    return folder
