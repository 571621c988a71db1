"""Every sentence of the page exists in every language, with the same values in it."""

import re
from pathlib import Path

import pytest

from visualize import strings

PARTS = sorted(path.stem for path in Path(strings.__file__).parent.glob("*.json"))


@pytest.mark.parametrize("part", PARTS)
def test_every_sentence_is_there_in_both_languages_with_the_same_values(part):
    for key, texts in strings.table(part).items():
        assert set(texts) == set(strings.LANGUAGES), key
        assert all(text.strip() for text in texts.values()), key
        assert len({tuple(sorted(re.findall(r"\{(\w+)\}", text))) for text in texts.values()}) == 1, key


def test_no_two_parts_share_a_key():
    keys = [key for part in PARTS for key in strings.table(part)]
    assert len(keys) == len(set(keys))


def test_every_strategy_is_named_and_explained_as_in_the_code():
    from dvl_core.decoding.strategies import STRATEGIES

    texts = strings.table("strategy")
    assert len(texts) == 2 * len(STRATEGIES)
    for name, strategy in STRATEGIES.items():
        assert texts[f"strategy.{name}"]["en"] == name.replace("_", " ")
        assert texts[f"strategy.{name}-info"]["en"] == strategy.__doc__.strip().splitlines()[0]
