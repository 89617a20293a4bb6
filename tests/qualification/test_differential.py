"""Twenty of the fuzzer's set-ups: `fit` and the engine train the same. Each seed is the test's id.

`python -m qualification.differential --only SEED` prints one; `--count 500` runs as many others.
"""

import pytest

from qualification.differential.comparison import Verdict, outcome
from qualification.differential.registered import register
from qualification.differential.setups import setup

register()
SEEDS = range(700_000, 700_020)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.filterwarnings("ignore")  # Keras' own, of masks and of gradients
def test_fit_and_the_engine_train_the_same(seed: int) -> None:
    one = setup(seed)
    print("\n".join(one.lines()))  # noqa: T201
    found = outcome(one)
    assert found.verdict in (Verdict.EQUAL, Verdict.RIGHTLY_REFUSED), "\n".join([*one.lines(), *found.details])
