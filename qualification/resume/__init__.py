"""Random jobs that are paused and killed: each must end with the bits of one that never stopped.

    python -m qualification.resume --count N --seed S

`setups` makes a random job from a seed, `runs` trains it in real runner processes, with real commands and signals.
"""
