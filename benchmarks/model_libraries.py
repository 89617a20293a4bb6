"""Train, export and reload whole architectures of keras.applications and, where it is installed, of KerasHub.

    python benchmarks/model_libraries.py [NAME…]     without names: all; one line for each, exits 1 where one fails

Each is small and starts from its initialisers: a few steps of a real job, its bundle, and both verifiers as scripts.
KerasHub is no dependency of Tapeworks: `pip install keras-hub` in an environment of your own.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tapeworks.canonical import parse_spec
from tapeworks.components import Component, registry
from tapeworks.errors import JobFailure
from tapeworks.jobs import RefusedComponent
from tapeworks.loading import load_components, load_installed
from tapeworks_workers import reload
from tapeworks_workers.engine.admission import admit
from tapeworks_workers.engine.assembly import assemble
from tapeworks_workers.engine.certificate import COMPARISONS
from tapeworks_workers.engine.export import export_bundle
from tapeworks_workers.engine.step import compile_train_step

IMAGES = """
import keras
import tensorflow as tf
from tapeworks import component

IMAGE = {"inputs": tf.TensorSpec([None, 32, 32, 3], tf.float32)}
SMALL = {"weights": None, "classes": 3, "classifier_activation": None, "input_shape": (32, 32, 3)}


@component("applications/MobileNet", kind="model", example=IMAGE)
def mobilenet():
    return keras.applications.MobileNet(alpha=0.25, **SMALL)


@component("applications/MobileNetV2", kind="model", example=IMAGE)
def mobilenet_v2():
    return keras.applications.MobileNetV2(alpha=0.35, **SMALL)


@component("applications/MobileNetV3Small", kind="model", example=IMAGE)
def mobilenet_v3():
    return keras.applications.MobileNetV3Small(alpha=0.75, **SMALL)


@component("applications/EfficientNetB0", kind="model", example=IMAGE)
def efficientnet():
    return keras.applications.EfficientNetB0(**SMALL)


@component("applications/ResNet50V2", kind="model", example=IMAGE)
def resnet():
    return keras.applications.ResNet50V2(**SMALL)


@component("applications/ConvNeXtTiny", kind="model", example=IMAGE)
def convnext():
    return keras.applications.ConvNeXtTiny(**SMALL)
"""

HUB = """
import keras_hub
import tensorflow as tf
from tapeworks import component

TOKENS = {name: tf.TensorSpec([None, 6], tf.int32) for name in ("token_ids", "padding_mask")}
SEGMENTS = {**TOKENS, "segment_ids": tf.TensorSpec([None, 6], tf.int32)}
IMAGE = tf.TensorSpec([None, 32, 32, 3], tf.float32)
ENCODER = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16, "vocabulary_size": 30}
GROUPED = {"num_layers": 1, "num_query_heads": 2, "num_key_value_heads": 1, "hidden_dim": 8, "intermediate_dim": 16}
models = keras_hub.models


@component("hub/Bert", kind="model", example={"inputs": SEGMENTS})
def bert():
    return models.BertTextClassifier(models.BertBackbone(max_sequence_length=6, **ENCODER), num_classes=3)


@component("hub/Roberta", kind="model", example={"inputs": TOKENS})
def roberta():
    return models.RobertaTextClassifier(models.RobertaBackbone(max_sequence_length=6, **ENCODER), num_classes=3)


@component("hub/GPT2", kind="model", example={"inputs": TOKENS})
def gpt2():
    return models.GPT2CausalLM(models.GPT2Backbone(max_sequence_length=6, **ENCODER))


@component("hub/Llama", kind="model", example={"inputs": TOKENS})
def llama():
    return models.LlamaCausalLM(models.LlamaBackbone(vocabulary_size=30, **GROUPED))


@component("hub/Gemma", kind="model", example={"inputs": TOKENS})
def gemma():
    return models.GemmaCausalLM(models.GemmaBackbone(vocabulary_size=30, head_dim=4, **GROUPED))


@component("hub/ResNetV2", kind="model", example={"inputs": IMAGE})
def resnet():
    backbone = models.ResNetBackbone(
        input_conv_filters=[64], input_conv_kernel_sizes=[3], stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1], stackwise_num_strides=[1, 2], block_type="basic_block", use_pre_activation=True,
        image_shape=(32, 32, 3),
    )
    return models.ResNetImageClassifier(backbone, num_classes=3)


@component("hub/ViT", kind="model", example={"inputs": IMAGE})
def vit():
    backbone = models.ViTBackbone(
        image_shape=(32, 32, 3), patch_size=8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16
    )
    return models.ViTImageClassifier(backbone, num_classes=3)
"""


_CAUSAL = ("hub/GPT2", "hub/Llama", "hub/Gemma")


def main(names: list[str]) -> int:
    """Run each architecture that is named, or all. The exit status."""
    with tempfile.TemporaryDirectory(prefix="architectures-") as folder:
        load_installed()
        for name, text in (("applications", IMAGES), ("keras_hub", HUB)):
            if importlib.util.find_spec(name) is not None or name == "applications":
                file = Path(folder) / f"{name}_components.py"
                file.write_text(text)
                load_components([file])
        offered = [one for one in registry if one.name.startswith(("applications/", "hub/"))]
        chosen = [one for one in offered if not names or one.name in names]
        wrong = 0
        for component in chosen:
            problem = attempted(component, Path(folder) / component.name)
            wrong += problem is not None
            sys.stdout.write(f"{component.name}: {problem or 'certified'}\n")
            sys.stdout.flush()
    return int(wrong > 0 or not chosen)


def attempted(component: Component, folder: Path) -> str | None:
    """What is wrong with an architecture; None where its bundle is certified."""
    verdict = admit(component)
    if isinstance(verdict, RefusedComponent):
        return f"refused: {verdict.reason}"
    try:
        bundle = trained_and_exported(component, folder)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    manifest = json.loads((bundle / "manifest.json").read_text())
    scripts = {"reload": [str(reload.__file__)], "certify": ["-m", "tapeworks_workers.engine.certify"]}
    for verifier, script in scripts.items():
        command = [sys.executable, *script, str(bundle), str(folder / "observed" / verifier)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return done.stderr[-1000:]
        try:
            COMPARISONS[verifier](bundle, manifest, folder / "observed", "cpu")
        except JobFailure as failure:
            return failure.message
    return None


def trained_and_exported(component: Component, folder: Path) -> Path:
    """The bundle of a job of three steps."""
    batches = list(random_batches(dict(component.example or {})["inputs"], component.name in _CAUSAL))
    element = tf.nest.map_structure(lambda a: tf.TensorSpec([None, *a.shape[1:]], a.dtype), batches[0])
    spec = {
        "data": {"source": "iris", "pipeline": [{"op": "batch", "batch_size": 4}]},
        "model": component.name,
        "optimizer": "keras/Adam",
        "loss": {"component": "keras/SparseCategoricalCrossentropy", "config": {"from_logits": True}},
    }
    assembly = assemble(parse_spec(spec), element)
    step = compile_train_step(assembly)
    for batch in batches:
        step(batch)
    return export_bundle(
        assembly, step, counters={"step": 3}, batches=batches, folder=folder, metrics={}, lineage={}
    ).folder


def random_batches(inputs: Any, per_token: bool) -> Any:
    """Three batches of what the model takes, and labels of three classes."""
    random = np.random.default_rng(0)
    for rows in (4, 4, 2):
        x = tf.nest.map_structure(lambda spec, rows=rows: _numbers(random, rows, spec), inputs)
        yield x, random.integers(0, 3, (rows, 6) if per_token else rows)


def _numbers(random: np.random.Generator, rows: int, spec: Any) -> np.ndarray:
    shape = (rows, *spec.shape[1:])
    return np.ones(shape, np.int32) if spec.dtype.is_integer else random.random(shape, np.float32)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
