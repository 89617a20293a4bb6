"""Options of `tapeworks data push --option`: texts of a command line become arguments of a source."""

from typing import Any

import pytest
from pydantic import ValidationError

from tapeworks.spec.reading_options import ReadingOptions, from_texts


@pytest.mark.parametrize(
    ("texts", "options"),
    [
        ([], {}),
        (["delimiter=;", "decimal=,"], {"delimiter": ";", "decimal": ","}),
        (["delimiter=\\t"], {"delimiter": "\t"}),
        (["delimiter=="], {"delimiter": "="}),
        (["header=false", 'names=["a", "b"]'], {"header": False, "names": ["a", "b"]}),
        (["na_values=", "na_values=k.A."], {"na_values": ["", "k.A."]}),
        (['{"thousands": "."}', "decimal=,"], {"thousands": ".", "decimal": ","}),
    ],
)
def test_texts_become_options(texts: list[str], options: dict[str, Any]) -> None:
    assert from_texts(texts) == options
    assert ReadingOptions.model_validate(options).given == options


@pytest.mark.parametrize("text", ["delimiter", "header=no", "{broken", 'names=["a"'])
def test_a_text_that_is_no_option_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"NAME=VALUE|header=true|Expecting|delimiter"):
        from_texts([text])


def test_options_that_contradict_each_other_are_refused() -> None:
    for wrong in ({"comment": ","}, {"quotechar": ";", "delimiter": ";"}, {"thousands": "."}, {"names": ["a"]}):
        with pytest.raises(ValidationError):
            ReadingOptions.model_validate(wrong)
