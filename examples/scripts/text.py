"""Short reviews, good or bad: TextVectorization, and a tf.data.Dataset."""

import random

import keras
import tensorflow as tf

keras.utils.set_random_seed(3)
GOOD, BAD = ["good", "great", "lovely", "fine"], ["bad", "dull", "poor", "awful"]
OTHER = ["the", "film", "was", "a", "plot", "actors", "music", "long", "and", "story"]
chosen = random.Random(3)  # noqa: S311
labels = [chosen.randint(0, 1) for _ in range(600)]
texts = [" ".join(chosen.sample(OTHER, 6) + chosen.sample(GOOD if label else BAD, 2)) for label in labels]
train = tf.data.Dataset.from_tensor_slices((texts[:500], labels[:500])).shuffle(500).batch(32)
valid = tf.data.Dataset.from_tensor_slices((texts[500:], labels[500:])).batch(32)

vectorize = keras.layers.TextVectorization(max_tokens=100, output_sequence_length=10)
vectorize.adapt(texts[:500])
inputs = keras.Input((), dtype="string")
hidden = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(100, 8)(vectorize(inputs)))
model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))
model.compile(keras.optimizers.Adam(0.02), "binary_crossentropy", metrics=["accuracy"])

history = model.fit(train, epochs=8, validation_data=valid, shuffle=False, verbose=0)  # the dataset shuffles
result = history.history["val_accuracy"][-1]
