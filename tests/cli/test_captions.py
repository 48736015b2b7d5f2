"""Photographs with captions at the command line: which belong together, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from abe.cli.given import samples
from abe.cli.options import InputOptions
from abe.errors import AbeError, Code


@pytest.fixture
def photographs(tmp_path: Path) -> list[str]:
    paths = [tmp_path / f"{name}.png" for name in ("dog", "cat")]
    for path in paths:
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    return list(map(str, paths))


def test_captions_go_with_photographs(photographs: list[str]) -> None:
    dog, cat = photographs
    each = samples([dog, cat], InputOptions(caption=["a dog", "a cat"]))
    assert [(one.kind, one.raw) for one in each] == [("pair", (dog, "a dog")), ("pair", (cat, "a cat"))]
    (several,) = samples([dog], InputOptions(caption=["a dog", "a cat"]))
    assert several.raw == (dog, ["a dog", "a cat"])
    (single,) = samples([dog], InputOptions(caption=["a dog"]))
    assert single.raw == (dog, "a dog")
    assert single.name == "dog.png: a dog"


def test_what_does_not_belong_together_is_refused(photographs: list[str]) -> None:
    refused = [
        (None, ["a dog"], Code.PAIR),
        (photographs, ["a dog"], Code.PAIR),
        (photographs, ["a", "b", "c"], Code.PAIR),
        (["a text of words"], ["a dog"], Code.PAIR),
        (photographs[:1], [" "], Code.EMPTY_BATCH),
    ]
    for words, captions, code in refused:
        with pytest.raises(AbeError) as problem:
            samples(words, InputOptions(caption=captions))
        assert problem.value.code is code
