"""A differential fuzzer: random small set-ups are trained by `keras.Model.fit` and by the engine, to the same result.

    python -m qualification.differential --count 500 --seed 1     # 500 set-ups
    python -m qualification.differential --only 1234               # reproduce one

A seed determines everything: the model, the data, what `compile` is given, how it is run. `setups.py` draws a set-up,
`fitting.py` trains it with Keras, `training.py` with the engine (from `from_keras`, or from a spec written by
hand), `comparison.py` compares initial weights, the loss of every batch, every value of every epoch, and final weights.
"""
