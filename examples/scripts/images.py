"""Handwritten digits: augmentation layers and callbacks."""

import keras
from sklearn.datasets import load_digits

keras.utils.set_random_seed(2)
data = load_digits()
images = data.images[..., None].astype("float32") / 16
train, valid = (images[:1400], data.target[:1400]), (images[1400:], data.target[1400:])

layers = [
    keras.Input((8, 8, 1)),
    keras.layers.RandomTranslation(0.1, 0.1),
    keras.layers.Conv2D(16, 3, activation="relu"),
    keras.layers.Conv2D(32, 3, activation="relu"),
    keras.layers.Flatten(),
    keras.layers.Dense(10, activation="softmax"),
]
model = keras.Sequential(layers)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
stop = keras.callbacks.EarlyStopping("val_accuracy", patience=5, restore_best_weights=True)
plateau = keras.callbacks.ReduceLROnPlateau("val_loss", patience=3)

history = model.fit(*train, epochs=15, validation_data=valid, callbacks=[stop, plateau], verbose=0)
result = max(history.history["val_accuracy"])
