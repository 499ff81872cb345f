"""lucidlm: from any text to a language model whose quality is a number you can trust.

The names below are the library: everything else is importable from its module and may change.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Decoding": "lucidlm.model.decoding",
    "GPT": "lucidlm.model.gpt",
    "GPTConfig": "lucidlm.model.config",
    "LucidError": "lucidlm.errors",
    "Protocol": "lucidlm.measure.protocol",
    "Tokenizer": "lucidlm.text.tokenizer",
    "Reading": "lucidlm.text.reading",
    "TrainConfig": "lucidlm.runs.settings",
    "binary_cross_entropy": "lucidlm.model.loss",
    "compare": "lucidlm.measure.comparison",
    "cross_entropy": "lucidlm.model.loss",
    "evaluate": "lucidlm.measure.evaluation",
    "explain": "lucidlm.measure.explanation",
    "export": "lucidlm.weights.export",
    "generate": "lucidlm.model.generation",
    "inputs_and_targets": "lucidlm.text.windows",
    "load": "lucidlm.weights.load",
    "perplexity": "lucidlm.model.loss",
    "prepare": "lucidlm.text.preparation",
    "stream": "lucidlm.model.generation",
    "train": "lucidlm.training.loop",
}

__all__ = [*sorted(_HOME)]


def __getattr__(name: str) -> Any:
    """The public name, imported when it is first used: `import lucidlm` stays quick and loads no torch."""
    if name not in _HOME:
        raise AttributeError(f"lucidlm has no public name {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
