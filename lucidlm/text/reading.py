"""How files are read: what a user asks for comes in, one value that every reader takes goes out."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are read: the same for every verb, so that a text has one number."""

    encoding: str = "utf-8"
    """Encoding of the texts."""
    field: str = "text"
    """The field that holds the text: of .jsonl and .json, a column of .csv and .tsv."""
    raw: bool = False
    """Leave Project Gutenberg's header and footer in."""

    def to_dict(self) -> dict[str, str | bool]:
        """The keys that manifests have."""
        return asdict(self)


READING = Reading()
"""How files are read where nobody asks for more."""
