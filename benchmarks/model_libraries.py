"""Train, export and reload whole architectures of keras.applications and, where it is installed, of KerasHub.

    python benchmarks/model_libraries.py [NAME…]     without names: all; one line for each, exits 1 where one fails

Each is small and starts from its initialisers: a few steps of a real job, its bundle and the certificate.
KerasHub is no dependency of Tapeworks: `pip install keras-hub` in an environment of your own.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path

from tapeworks.components.loading import load_components, load_installed
from tapeworks.components.registry import Component, registry
from tapeworks.schemas.jobs import JobKind, RefusedComponent
from tapeworks.spec.parsing import parse_spec
from tapeworks_workers.authoring.attempts import Attempts
from tapeworks_workers.authoring.component_jobs import failure_message
from tapeworks_workers.authoring.trial_jobs import trial_job
from tapeworks_workers.engine.admission.admission import admit

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
        with Attempts() as attempts:
            for component in chosen:
                problem = attempted(component, Path(folder) / component.name, attempts)
                wrong += problem is not None
                sys.stdout.write(f"{component.name}: {problem or 'certified'}\n")
                sys.stdout.flush()
    return int(wrong > 0 or not chosen)


def attempted(component: Component, folder: Path, attempts: Attempts) -> str | None:
    """What is wrong with an architecture; None where the bundle of a small job of it is certified."""
    verdict = admit(component)
    if isinstance(verdict, RefusedComponent):
        return f"refused: {verdict.reason}"
    spec = parse_spec(trial_job(component).spec).document()
    folder.mkdir(parents=True)
    lease = {"kind": JobKind.TRAIN, "attempt": 1, "spec": spec, "timeout_seconds": None}
    failure = attempts.run({"lease": lease, "folder": str(folder), "resume": []})[-1]["failure"]
    return None if failure is None else failure_message(failure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
