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


def run_examples(document, section="", **changes):
    """Run the Python examples of a document or a section in order; return their variables.

    Args:
        document: its path.
        section: a heading; by default, all of the document.
        changes: words of the code and what takes their place, as `{"938": "4"}`.
    """
    variables = {"__name__": "example"}
    for example in blocks(section_of(document, section) if section else read(document), "python"):
        for old, new in changes.items():
            assert example.count(old)
            example = example.replace(old, new)
        exec(compile(example, f"{document}: {section}", "exec"), variables)
    return variables
