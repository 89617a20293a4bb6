"""Every public class of Keras with every argument changed from its default, one at a time."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras

from tapeworks.spec.references import Kind
from tapeworks_workers.engine.factory import keras_classes

Make = Callable[[], Any]

_REQUIRED: dict[str, Make] = {
    "units": lambda: 3, "filters": lambda: 2, "kernel_size": lambda: 2, "input_dim": lambda: 5,
    "output_dim": lambda: 3, "rate": lambda: 0.3, "stddev": lambda: 0.3, "num_heads": lambda: 2, "key_dim": lambda: 3,
    "head_dim": lambda: 3, "num_query_heads": lambda: 4, "num_key_value_heads": lambda: 2,
    "target_shape": lambda: (2, 2), "dims": lambda: (2, 1), "n": lambda: 3, "axes": lambda: 1,
    "equation": lambda: "abc,cd->abd", "output_shape": lambda: (None, 4), "height": lambda: 4, "width": lambda: 5,
    "num_bins": lambda: 3, "factor": lambda: 0.2, "decay_steps": lambda: 10, "decay_rate": lambda: 0.5,
    "initial_learning_rate": lambda: 0.1, "learning_rate": lambda: 0.1, "boundaries": lambda: [1, 2],
    "values": lambda: [0.1, 0.2, 0.3], "first_decay_steps": lambda: 5, "end_learning_rate": lambda: 0.01,
    "num_classes": lambda: 3, "target_class_ids": lambda: [0, 1], "sensitivity": lambda: 0.5,
    "specificity": lambda: 0.5, "precision": lambda: 0.5, "recall": lambda: 0.5, "scale": lambda: 2.0,
    "max_number": lambda: 3, "cropping": lambda: 1, "layer": lambda: keras.layers.Dense(3, activation="relu"),
    "cell": lambda: keras.layers.LSTMCell(3), "cells": lambda: [keras.layers.LSTMCell(3)],
    "inner_optimizer": lambda: keras.optimizers.SGD(0.2), "fn": lambda: keras.losses.mean_squared_error,
    "activation": lambda: "relu", "num_tokens": lambda: 5, "shape": lambda: (4,), "max_value": lambda: 2.0,
    "value_range": lambda: (0, 1), "num_ops": lambda: 2, "output_size": lambda: 3, "name": lambda: "other",
    "sequence_length": lambda: 4,
}  # fmt: skip
_OF_CLASS: dict[tuple[str, str], Make] = {
    ("Bidirectional", "layer"): lambda: keras.layers.LSTM(3),
    ("RandomPosterization", "factor"): lambda: 3,
    ("SpectralNormalization", "layer"): lambda: keras.layers.Dense(3),
    ("Discretization", "num_bins"): lambda: 4,
    ("HashedCrossing", "num_bins"): lambda: 4,
    ("RandomCrop", "height"): lambda: 3,
    ("Pipeline", "layers"): lambda: [keras.layers.Rescaling(2.0), keras.layers.RandomFlip(seed=3)],
    ("GroupedQueryAttention", "num_query_heads"): lambda: 4,
}
_WITH: dict[tuple[str, str], dict[str, Any]] = {
    **{(f"Conv{n}DTranspose", "output_padding"): {"strides": 3, "output_padding": 1} for n in (1, 2, 3)},
    ("Discretization", "bin_boundaries"): {"num_bins": None, "bin_boundaries": [0.5, 1.5]},
    ("Discretization", "sparse"): {"output_mode": "one_hot", "sparse": True},
    ("Hashing", "dtype"): {"dtype": "int32"},
    ("Hashing", "sparse"): {"output_mode": "one_hot", "sparse": True},
    ("InputLayer", "batch_shape"): {"shape": None, "batch_shape": (3, 4)},
    ("InputLayer", "shape"): {"shape": (5, 4)},
    ("IntegerLookup", "oov_method"): {"num_oov_indices": 3, "oov_method": "farmhash"},
    ("IntegerLookup", "salt"): {"num_oov_indices": 3, "oov_method": "farmhash", "salt": [1, 2]},
    ("IntegerLookup", "pad_to_max_tokens"): {"max_tokens": 5, "output_mode": "count", "pad_to_max_tokens": True},
    ("IntegerLookup", "sparse"): {"output_mode": "one_hot", "sparse": True},
    ("StringLookup", "pad_to_max_tokens"): {"max_tokens": 5, "output_mode": "count", "pad_to_max_tokens": True},
    ("StringLookup", "sparse"): {"output_mode": "one_hot", "sparse": True},
    ("TextVectorization", "pad_to_max_tokens"): {"max_tokens": 5, "output_mode": "count", "pad_to_max_tokens": True},
    ("TextVectorization", "sparse"): {"output_mode": "count", "sparse": True},
    ("Normalization", "mean"): {"mean": [1.5, 2.0], "variance": [2.5, 3.0]},
    ("Normalization", "variance"): {"mean": 0.5, "variance": 2.5},
    ("Permute", "dims"): {"dims": (1, 2)},
    ("Reshape", "target_shape"): {"target_shape": (-1, 4)},
    ("STFTSpectrogram", "mode"): {"mode": "psd"},
    ("STFTSpectrogram", "scaling"): {"scaling": None},
    ("AUC", "num_labels"): {"multi_label": True, "num_labels": 4},
    ("BinaryIoU", "target_class_ids"): {"target_class_ids": (1,)},
    ("IoU", "target_class_ids"): {"target_class_ids": [1]},
    ("OneHotIoU", "target_class_ids"): {"target_class_ids": [1]},
    ("OrthogonalRegularizer", "mode"): {"mode": "columns"},
    ("STFT", "side"): {"side": "imag"},
    ("STFT", "scaling"): {"scaling": "spectrum"},
    ("MultiHeadAttention", "use_gate"): {"use_gate": True},
}
"""Values that Keras takes only beside others."""
_OTHER: dict[str, tuple[Make, ...]] = {
    "activation": (lambda: None, lambda: "tanh", lambda: "gelu"),
    "recurrent_activation": (lambda: None, lambda: "tanh"),
    "dtype": (lambda: "float16", lambda: "float64"),
    "name": (lambda: "other_name",),
    "reduction": (lambda: "sum", lambda: "mean_with_sample_weight", lambda: "none"),
    "regularizer": (lambda: keras.regularizers.L1L2(0.1, 0.2), lambda: keras.regularizers.OrthogonalRegularizer(0.3)),
    "initializer": (lambda: keras.initializers.RandomNormal(0.1, 0.2, seed=3), lambda: keras.initializers.Ones()),
    "constraint": (lambda: keras.constraints.MaxNorm(3, axis=1),),
    "learning_rate": (
        lambda: 0.5,
        lambda: keras.optimizers.schedules.CosineDecay(0.1, 10, 0.2, warmup_target=0.3, warmup_steps=4),
    ),
    "padding": (lambda: "same", lambda: "valid", lambda: 2),
    "data_format": (lambda: "channels_first",),
    "interpolation": (lambda: "nearest", lambda: "bilinear"),
    "fill_mode": (lambda: "constant", lambda: "nearest"),
    "mode": (lambda: "horizontal", lambda: "fan_out", lambda: "min"),
    "distribution": (lambda: "uniform",),
    "output_mode": (lambda: "one_hot", lambda: "count"),
    "merge_mode": (lambda: "sum", lambda: None),
    "score_mode": (lambda: "concat",),
    "implementation": (lambda: 1,),
    "class_aggregation": (lambda: None,),
    "average": (lambda: "macro", lambda: "micro"),
    "curve": (lambda: "PR",),
    "summation_method": (lambda: "minoring",),
    "class_id": (lambda: 1,),
    "thresholds": (lambda: [0.25, 0.75],),
    "threshold": (lambda: 0.75,),
    "num_labels": (lambda: 4,),
    "label_weights": (lambda: [0.5, 1.0],),
    "multi_label": (lambda: True,),
    "ignore_class": (lambda: 1,),
    "dtype_policy": (lambda: "float16",),
    "seed": (lambda: 7,),
    "axis": (lambda: 1, lambda: [1]),
    "axes": (lambda: 2, lambda: (1, 2)),
    "keepdims": (lambda: True,),
    "noise_shape": (lambda: (None, 1),),
    "shared_axes": (lambda: [1],),
    "vocabulary": (lambda: ["a", "b"], lambda: [3, 5]),
    "mask_token": (lambda: "m", lambda: 0),
    "oov_token": (lambda: "oov", lambda: -7),
    "vocabulary_dtype": (lambda: "int32",),
    "idf_weights": (lambda: None,),
    "bin_boundaries": (lambda: [0.5, 1.5],),
    "standardize": (lambda: "lower", lambda: None),
    "split": (lambda: "character", lambda: None),
    "encoding": (lambda: "latin-1",),
    "ngrams": (lambda: 2, lambda: (1, 3)),
    "max_tokens": (lambda: 9,),
    "output_sequence_length": (lambda: 4,),
    "salt": (lambda: 5, lambda: [3, 4]),
    "mean": (lambda: [1.5], lambda: 0.5),
    "variance": (lambda: [2.5],),
    "weight_decay": (lambda: 0.25, lambda: None),
    "clipnorm": (lambda: 0.5,),
    "clipvalue": (lambda: 0.5,),
    "global_clipnorm": (lambda: 0.5,),
    "ema_overwrite_frequency": (lambda: 3,),
    "gradient_accumulation_steps": (lambda: 2,),
    "loss_scale_factor": (lambda: 4.0,),
    "max_value": (lambda: 4.0,),
    "negative_slope": (lambda: 0.2,),
    "key_dim": (lambda: 4,),
    "value_dim": (lambda: 5,),
    "attention_axes": (lambda: (1,),),
    "output_shape": (lambda: (5,), lambda: (None, 5)),
    "value_range": (lambda: (0, 2),),
    "strides": (lambda: 2,),
    "pool_size": (lambda: 3,),
    "size": (lambda: 3,),
    "kernel_size": (lambda: 3, lambda: (3, 3)),
    "bias_axes": (lambda: "d",),
    "cropping": (lambda: 2,),
    "batch_size": (lambda: 4,),
    "batch_shape": (lambda: (None, 4),),
    "crop_to_aspect_ratio": (lambda: True,),
    "center": (lambda: False,),
    "shift": (lambda: 0.3,),
    "warmup_target": (lambda: 0.2,),
    "backward_layer": (lambda: keras.layers.LSTM(3, go_backwards=True),),
    "layers": (lambda: [keras.layers.Rescaling(3.0, offset=0.5)],),
    "num_query_heads": (lambda: 8,),
    "value": (lambda: 3.0,),
    "height_factor": (lambda: 0.3, lambda: (0.1, 0.2)),
    "width_factor": (lambda: 0.3, lambda: (0.1, 0.2)),
    "height": (lambda: 6,),
    "width": (lambda: 6,),
    "lower": (lambda: 0.5,),
    "unroll": (lambda: True,),
    "use_cudnn": (lambda: False,),
    "flash_attention": (lambda: True,),
    "num_bins": (lambda: 6,),
    "equation": (lambda: "abc,cd->abd",),
    "decay_steps": (lambda: 20,),
    "values": (lambda: [0.3, 0.2, 0.1],),
    "boundaries": (lambda: [3, 4],),
    "activity_regularizer": (lambda: keras.regularizers.L2(0.3),),
    "sparse": (lambda: True,),
    "dilation_rate": (lambda: 2,),
    "scale": (lambda: 3.0, lambda: False, lambda: None),
    "offset": (lambda: 1.0,),
    "pad_to_max_tokens": (lambda: True,),
    "num_oov_indices": (lambda: 2,),
    "cutoff_freq": (lambda: 2,),
    "fft_length": (lambda: 512,),
    "sequence_stride": (lambda: 128,),
    "window": (lambda: "hamming", lambda: None),
    "layer": (lambda: keras.layers.Dense(4, use_bias=False), lambda: keras.layers.GRU(4)),
    "cell": (lambda: keras.layers.GRUCell(4),),
    "cells": (lambda: [keras.layers.GRUCell(4), keras.layers.SimpleRNNCell(2, activation=None)],),
    "inner_optimizer": (lambda: keras.optimizers.Adam(0.3, beta_1=0.7),),
    "factor": (lambda: 0.4, lambda: 4),
    "ord": (lambda: "fro",),
}
_NOT_CHANGED = frozenset(
    {"lora_rank", "lora_alpha", "quantization_config", "gptq_unpacked_column_size", "input_tensor", "weights", "fn"}
)
"""Arguments of fine-tuning and quantisation, which change a layer after training; initial weights and tensors."""


@dataclass(frozen=True)
class Case:
    """A class, the arguments that it needs, and one that differs from its default."""

    kind: Kind
    cls: type
    argument: str | None
    make: Make | None

    @property
    def id(self) -> str:
        """A name for the test."""
        return f"{self.cls.__name__}-{self.argument}"

    def build(self) -> Any:
        """The object."""
        arguments = {name: make() for name, make in required(self.cls).items()}
        arguments |= _WITH.get((self.cls.__name__, self.argument or ""), {})
        if self.argument is not None and self.make is not None:
            arguments[self.argument] = self.make()
        return self.cls(**arguments)


@functools.cache
def required(cls: type) -> dict[str, Make]:
    """Values for the arguments that have no default."""
    names = [
        one.name
        for one in inspect.signature(cls).parameters.values()
        if one.default is one.empty and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
    ]
    extra = {"CategoryEncoding": ["num_tokens"], "Discretization": ["num_bins"], "InputLayer": ["shape"]}
    extra |= {"RandomElasticTransform": [], "IntegerLookup": [], "Normalization": []}
    return {
        name: _OF_CLASS.get((cls.__name__, name)) or _REQUIRED.get(name) or (lambda: 1)
        for name in [*names, *extra.get(cls.__name__, [])]
    }


def cases() -> Iterator[Case]:
    """Every class as it is by default, then with each argument changed; Keras refuses some of the values."""
    for kind in keras_classes.KERAS_MODULES:
        for cls in dict.fromkeys(keras_classes._classes(kind).values()):
            yield Case(kind, cls, None, None)
            for argument in changed(kind, cls):
                together = (cls.__name__, argument) in _WITH
                for make in (None,) if together else _others(cls, argument):
                    yield Case(kind, cls, argument, make)


def changed(kind: Kind, cls: type) -> list[str]:
    """The arguments that are changed."""
    return [argument for argument in keras_classes.arguments_of(cls, kind) if argument not in _NOT_CHANGED]


def _others(cls: type, argument: str) -> tuple[Make, ...]:
    if argument in _OTHER:
        return _OTHER[argument]
    for ending in ("regularizer", "initializer", "constraint"):
        if argument.endswith(ending):
            return _OTHER[ending]
    parameter = inspect.signature(cls).parameters.get(argument)
    default = None if parameter is None else parameter.default
    if argument in ("trainable", "use_ema") or isinstance(default, bool):
        return ((lambda: True) if argument == "use_ema" else (lambda: not (True if default is None else default)),)
    if isinstance(default, int):
        return (lambda: default + 1,)
    if isinstance(default, float):
        return (lambda: default / 2 + 0.1, lambda: default * 0.5, lambda: 1.0 + default)
    if argument == "trainable":
        return (lambda: False,)
    return (lambda: 3, lambda: 0.5, lambda: True)
