"""Components of a user who tries things out, and who makes every mistake once."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tapeworks import GradientTransform, Source, TrainingStep, component


@component("lab/Numbers")
class Numbers(Source):
    """Seeded numbers: x of shape (4,), y a class of three, or what `form` says."""

    def __init__(self, size: int = 100, form: str = "plain", highest: int = 2) -> None:
        self.size, self.form, self.highest = size, form, highest

    def dataset(self) -> tf.data.Dataset:
        random = np.random.RandomState(3)
        x = random.normal(size=(self.size, 4)).astype("float32")
        y = random.randint(0, 3, size=self.size).astype("int64")
        y[-1:] = self.highest
        match self.form:
            case "plain":
                return tf.data.Dataset.from_tensor_slices((x, y))
            case "weighted":
                return tf.data.Dataset.from_tensor_slices((x, y, np.linspace(0.5, 1.5, self.size, dtype="float32")))
            case "index":
                return tf.data.Dataset.from_tensor_slices((np.arange(self.size, dtype="float32")[:, None], y))
            case "ids":
                return tf.data.Dataset.from_tensor_slices((np.abs(4 * x).astype("int64"), y))
            case "unknown":
                indexed = np.arange(self.size, dtype="float32")[:, None]
                return tf.data.Dataset.from_tensor_slices((indexed, y)).filter(lambda x, y: True)
            case "generator":
                signature = (tf.TensorSpec([4], tf.float32), tf.TensorSpec([], tf.int64))
                return tf.data.Dataset.from_generator(lambda: zip(x, y, strict=True), output_signature=signature)
            case "endless":
                return tf.data.Dataset.from_tensor_slices((x, y)).repeat()
            case "texts":
                return tf.data.Dataset.from_tensor_slices((x, y.astype("str")))
            case "float64":
                return tf.data.Dataset.from_tensor_slices((x.astype("float64"), y))
            case "named":
                named = {"height": x[:, :1], "age": x[:, 1:2], "noise": x[:, 2:]}
                return tf.data.Dataset.from_tensor_slices((named, y))
            case "onehot":
                return tf.data.Dataset.from_tensor_slices((x, np.eye(3, dtype="float32")[y]))
            case "two outputs":
                return tf.data.Dataset.from_tensor_slices((x, {"kind": y, "sum": x.sum(axis=1, keepdims=True)}))
            case "unpaired":
                return tf.data.Dataset.from_tensor_slices({"a": x[:, :2], "b": x[:, 2:] + 1})
            case "regression":
                return tf.data.Dataset.from_tensor_slices((x, x.sum(axis=1)))
        raise ValueError(f"unknown form {self.form!r}")


@component("lab/Sequences")
class Sequences(Source):
    """23 rows of 1 … 6 ids, each with its number: ragged, as time series of two values, or sparse."""

    def __init__(self, form: str = "ragged") -> None:
        self.form = form

    def dataset(self) -> tf.data.Dataset:
        rows = [[10 * i + j for j in range(i % 6 + 1)] for i in range(23)]
        ids, numbers = tf.ragged.constant(rows, dtype=tf.int64), np.arange(23)
        if self.form == "series":
            values = tf.stack([tf.cast(ids.values, tf.float32)] * 2, axis=1)
            return tf.data.Dataset.from_tensor_slices((ids.with_values(values), numbers)).map(lambda x, y: (x, y))
        if self.form == "sparse":
            at = [[i, 400 * j + i] for i, row in enumerate(rows) for j in range(len(row))]
            sparse = tf.SparseTensor(at, tf.ones(len(at)), [23, 100_000])
            return tf.data.Dataset.from_tensor_slices((sparse, numbers))
        return tf.data.Dataset.from_tensor_slices((ids, numbers))


@component("lab/Shorter")
class Shorter:
    """Whether a sequence is short."""

    def __init__(self, than: int) -> None:
        self.than = than

    def __call__(self, x: Any) -> Any:
        return tf.shape(x)[0] < self.than


@component("lab/Coin")
def coin(x: Any, y: Any, *, seed: Any) -> Any:
    """Keeps every other element, by chance."""
    return tf.random.stateless_uniform([], seed) < 0.5


@component("lab/Dealt", kind="dataset_function")
def dealt(dataset: Any, *, seed: Any) -> Any:
    """Shuffled, another order each pass."""
    return dataset.shuffle(1000, seed=seed)


@component("lab/Pairs", kind="dataset_function")
class Pairs:
    """Batches of two."""

    batched = True

    def __call__(self, dataset: Any) -> Any:
        return dataset.batch(2)


@component("lab/NoDataset", kind="dataset_function")
def no_dataset(dataset: Any) -> Any:
    """A mistake."""
    return 3


@component("lab/Jitter")
class Jitter:
    """Adds seeded noise to x."""

    def __init__(self, scale: float = 0.1) -> None:
        self.scale = scale

    def __call__(self, x: Any, y: Any, seed: Any) -> Any:
        return x + self.scale * tf.random.stateless_normal(tf.shape(x), seed), y


@component("lab/Sum")
def total(x: Any, y: Any) -> Any:
    """x with its own sum beside it."""
    return {"x": x, "sum": tf.reduce_sum(x, -1, keepdims=True)}, y


@component("lab/Half", kind="transform")
def half(value: Any) -> Any:
    """Half of a field."""
    return value / 2


@component("lab/Add")
class Add(GradientTransform):
    """Adds a number to every gradient, and counts how often."""

    def __init__(self, amount: float) -> None:
        self.amount = amount

    def build(self, variables: Any) -> None:
        self.calls = tf.Variable(0, dtype=tf.int32)

    def __call__(self, gradients: Any, variables: Any, run: Any) -> Any:
        self.calls.assign_add(1)
        return [gradient + self.amount for gradient in gradients]


@component("lab/Times")
class Times(GradientTransform):
    """Multiplies every gradient."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, gradients: Any, variables: Any, run: Any) -> Any:
        return [gradient * self.factor for gradient in gradients]


@component("lab/SquaredDifference")
class SquaredDifference(keras.losses.Loss):
    """(y - y')², without a thought for shapes."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)


@component("lab/PickedLoss")
class PickedLoss(keras.losses.Loss):
    """Cross-entropy through a one-hot: labels out of range give zeros, not an error."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        picked = tf.one_hot(tf.cast(y_true, tf.int32), y_pred.shape[-1])
        return -tf.reduce_sum(picked * tf.nn.log_softmax(y_pred), -1)


@component("lab/Largest")
class Largest(keras.metrics.Metric):
    """The largest output; its result is worked out with NumPy."""

    def __init__(self, name: str = "largest", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.largest = self.add_variable((), initializer="zeros", name="largest")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.largest.assign(keras.ops.maximum(self.largest, keras.ops.max(y_pred)))

    def result(self) -> Any:
        return np.float32(self.largest.numpy())


@component("lab/Gan")
class Gan(TrainingStep):
    """Two models, two optimizers, noise from the run, a critic that is trained more often, a moving average."""

    models = ("generator", "discriminator")
    optimizers = {"generator": ("generator",), "discriminator": ("discriminator",)}  # noqa: RUF012
    latent = 3

    def __init__(self, every: int = 2) -> None:
        self.every = every

    def input_spec(self, role: str, element: Any, models: Any) -> Any:
        return tf.TensorSpec([None, self.latent]) if role == "generator" else element[0]

    def build(self, run: Any) -> None:
        self.average = tf.Variable(run.models["generator"].trainable_variables[0].numpy())

    def train_step(self, batch: Any, run: Any) -> dict[str, Any]:
        real, _ = batch
        generator, discriminator = run.models["generator"], run.models["discriminator"]
        noise = run.random_normal([tf.shape(real)[0], self.latent])
        with tf.GradientTape() as d_tape, tf.GradientTape() as g_tape:
            fake = generator(noise, training=True)
            on_fake, on_real = discriminator(fake, training=True), discriminator(real, training=True)
            d_loss = tf.reduce_mean(tf.nn.softplus(on_fake) + tf.nn.softplus(-on_real))
            g_loss = tf.reduce_mean(tf.nn.softplus(-on_fake))
        run.minimize("discriminator", d_loss, d_tape)
        changed = run.minimize("generator", g_loss, g_tape, when=run.step % self.every == 0)
        if changed:  # a Python if on a tensor: AutoGraph makes a tf.cond of it
            self.average.assign(0.9 * self.average + 0.1 * generator.trainable_variables[0])
        return {"d_loss": d_loss, "g_loss": g_loss, "changed": tf.cast(changed, tf.float32)}


@component("lab/Mistaken")
class Mistaken(TrainingStep):
    """One mistake for each name."""

    def __init__(self, mistake: str) -> None:
        self.mistake = mistake

    def build(self, run: Any) -> None:
        @tf.function
        def leak() -> None:
            self.leaked = tf.constant(1.0) * 2.0

        leak()

    def train_step(self, batch: Any, run: Any) -> dict[str, Any]:
        x, y = batch
        model = run.models["model"]
        with tf.GradientTape() as tape:
            outputs = model(x, training=True)
            loss = tf.reduce_mean(outputs**2) + self.term(x, y, outputs)
            if self.mistake == "no_gradient":
                loss = tf.reduce_mean(x)
        run.minimize("model", loss, tape)
        if self.mistake == "not_scalars":
            return {"loss": outputs}
        return {"loss": loss}

    def term(self, x: Any, y: Any, outputs: Any) -> Any:
        return getattr(self, self.mistake, lambda *_: 0.0)(x, y, outputs)

    def dtype_mismatch(self, x: Any, y: Any, outputs: Any) -> Any:
        return tf.reduce_mean(outputs * tf.ones_like(y)[:, None])

    def float64_input(self, x: Any, y: Any, outputs: Any) -> Any:
        return tf.reduce_mean(outputs * tf.constant(np.ones(3)))

    def numpy_in_graph(self, x: Any, y: Any, outputs: Any) -> Any:
        return np.mean(outputs)

    def numpy_method(self, x: Any, y: Any, outputs: Any) -> Any:
        return outputs.numpy().mean()

    def variable_creation_in_graph(self, x: Any, y: Any, outputs: Any) -> Any:
        return tf.Variable(1.0) * 0.0

    def python_control_flow(self, x: Any, y: Any, outputs: Any) -> Any:
        return sum(1.0 for _ in filter(None, [outputs[0, 0] > 0]))

    def undefined_in_a_branch(self, x: Any, y: Any, outputs: Any) -> Any:
        if outputs[0, 0] > 0:
            scale = 1.0
        return scale

    def graph_tensor_leaked(self, x: Any, y: Any, outputs: Any) -> Any:
        return self.leaked

    def component_error(self, x: Any, y: Any, outputs: Any) -> Any:
        return {}["nothing"]

    def incompatible_shapes(self, x: Any, y: Any, outputs: Any) -> Any:
        return tf.reduce_mean(outputs + x)


@component("lab/Diverging")
class Diverging(TrainingStep):
    """Its loss, or its gradient, is NaN from a step on."""

    def __init__(self, at: int, what: str = "loss") -> None:
        self.at, self.what = at, what

    def train_step(self, batch: Any, run: Any) -> dict[str, Any]:
        bad = tf.where(run.step + 1 >= self.at, np.float32("nan"), 0.0)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(run.models["model"](batch[0], training=True) ** 2)
            if self.what == "loss":
                loss += bad
        gradients = run.gradients("model", loss, tape)
        run.apply("model", [gradient + bad if self.what == "gradient" else gradient for gradient in gradients])
        return {"loss": loss}


@component("lab/Uneven")
class Uneven(Source):
    """Elements of growing length."""

    def dataset(self) -> tf.data.Dataset:
        data = tf.data.Dataset.range(20).map(lambda i: (tf.ones([i % 3 + 2]), i % 3))
        return data.map(lambda x, y: (tf.ensure_shape(x, [None]), y))


@component("lab/Raising")
class Raising(keras.layers.Layer):
    """Its call has a mistake."""

    def __init__(self, ready: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ready = ready

    def call(self, x: Any) -> Any:
        if not self.ready:
            raise RuntimeError("nothing is ready")
        return x


@component("lab/Bounded")
class Bounded(keras.layers.Layer):
    """Asserts what it is given."""

    def __init__(self, limit: float = 1e9, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.limit = limit

    def call(self, x: Any) -> Any:
        tf.debugging.assert_less(tf.reduce_max(x), self.limit, "beyond the limit")
        return x


@component("lab/Printing")
class Printing(keras.layers.Layer):
    """Prints in the graph, which XLA does not do."""

    def call(self, x: Any) -> Any:
        tf.print("largest", tf.reduce_max(x), output_stream="file:///dev/null")
        return x


@component("lab/Idle")
class Idle(keras.layers.Layer):
    """Has a weight that it does not use."""

    def build(self, shape: Any) -> None:
        self.unused = self.add_weight(name="unused", shape=(1,))

    def call(self, x: Any) -> Any:
        return x


@component("lab/Scaled")
class Scaled(keras.Model):
    """Subclassed, with a layer that adapts."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = keras.layers.Rescaling(10.0)
        self.norm = keras.layers.Normalization(name="norm")
        self.out = keras.layers.Dense(2)

    def call(self, x: Any) -> Any:
        return self.out(self.norm(self.scale(x)))


@component("lab/Target")
class Target(TrainingStep):
    """Trains one model towards a copy that stays behind."""

    models = ("target", "online")
    optimizers = {"online": ("online",)}  # noqa: RUF012
    frozen = ("target",)

    def train_step(self, batch: Any, run: Any) -> dict[str, Any]:
        x = batch[0]
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((run.models["online"](x, training=True) - run.models["target"](x) - 1.0) ** 2)
        run.minimize("online", loss, tape)
        return {"loss": loss}
