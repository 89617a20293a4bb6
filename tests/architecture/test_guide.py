"""The guide has a page for each row of the examples, and its index lists them all."""

import re

from examples.rows import rows
from tests.support.paths import ROOT

GUIDE = ROOT / "docs" / "guide"


def test_the_index_lists_the_rows_and_nothing_else() -> None:
    listed = re.findall(r"^\| \[([a-z-]+)\]\(\1\.md\)", (GUIDE / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(rows()) == sorted(page.stem for page in GUIDE.glob("*.md") if page.stem != "README")
