"""`python -m qualification.resume --count N --seed S`: N random jobs, each whole and interrupted."""

from __future__ import annotations

import argparse
import json
import sys
import time

from qualification.resume.runs import Broken, Runners, check
from qualification.resume.setups import setup


def main() -> int:
    """The number of setups that differ or fail, at most 1 as an exit status."""
    parser = argparse.ArgumentParser(prog="python -m qualification.resume", description=__doc__)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the first setup; the next ones follow")
    parser.add_argument("--show", action="store_true", help="print each spec")
    given = parser.parse_args()
    wrong = 0
    with Runners() as runners:
        for seed in range(given.seed, given.seed + given.count):
            one, began, said = setup(seed), time.monotonic(), list[str]()
            if given.show:
                print(json.dumps(one.spec))
            try:
                differing = check(one, runners, say=said.append)
            except Broken as error:
                differing = [f"broken: {error}"]
            wrong += bool(differing)
            verdict = "equal" if not differing else f"DIFFERS: {len(differing)}, {'; '.join(differing[:4])}"
            print(f"seed {seed}: {verdict} ({''.join(said)}, {time.monotonic() - began:.0f} s)", flush=True)
    print(f"{given.count - wrong} of {given.count} equal")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
