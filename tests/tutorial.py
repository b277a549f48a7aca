"""The code of the documents: what their sections say, and what its execution gives."""

import re

from tests.helpers import ROOT

TUTORIAL = "docs/tutorial.md"


def read(document):
    return (ROOT / document).read_text(encoding="utf-8")


def section_of(document, heading):
    """The text below a second-level heading."""
    return read(document).split(f"\n## {heading}\n")[1].split("\n## ")[0]


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def run_examples(document, section="", changes=(), n_blocks=None):
    """Run the Python examples of a document or a section in order; return their variables.

    Args:
        document: its path.
        section: a heading; by default, all of the document.
        changes: pairs of a text in the code and what takes its place, as `[("938", "4")]`.
        n_blocks: how many blocks to run; by default, all.
    """
    variables = {"__name__": "example"}
    text = section_of(document, section) if section else read(document)
    for example in blocks(text, "python")[:n_blocks]:
        for old, new in changes:
            assert old in example
            example = example.replace(old, new)
        exec(compile(example, f"{document}: {section}", "exec"), variables)
    return variables
