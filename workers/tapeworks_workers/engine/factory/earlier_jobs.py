"""What a job takes from earlier ones: bundles and checkpoints that the agent has downloaded.

`Inputs` resolves each `from` of the spec: `state(name)` gives the values, `model(name, role)` a Keras model of a
bundle, inspected before Keras sees it. In verifier B, which has no inputs, models come from the architectures that
the bundle keeps (`used`); their weights are in its training state.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import keras

from tapeworks import archives
from tapeworks.archives import UnsafeArchive, keras_config
from tapeworks.errors import FailureCode, JobFailure, Location
from tapeworks_workers.engine.diagnostics.error_text import text
from tapeworks_workers.engine.factory.weight_matching import Names
from tapeworks_workers.processes.messages import InputFile

ARCHITECTURES = "inputs.json"
"""In a bundle's `training_state/`: `from` → role as asked for → Keras' config of the model."""


@dataclass(frozen=True)
class Input:
    """A downloaded archive."""

    kind: str
    """`bundle` (tar.gz) or `checkpoint` (tar)."""
    path: Path


class Inputs:
    """The earlier jobs of one attempt, by the name that the spec gives them."""

    def __init__(
        self,
        archives: Mapping[str, Input] | None = None,
        architectures: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self._archives = dict(archives or {})
        self._architectures = architectures
        self.used: dict[str, dict[str, Any]] = {}
        """`from` → role as asked for ("" for none) → config of each model that was taken."""
        self.loaded: list[keras.Model] = []
        """Those models: they have learned already."""
        self.numbered: list[tuple[str, str]] = []
        """(pointer, what it is) of each layer that a spec names by an automatic number of Keras."""

    @classmethod
    def of(cls, files: Sequence[InputFile], folder: Path) -> Inputs:
        """From the start frame's `inputs`, paths relative to the attempt's folder."""
        return cls({one.from_: Input(one.kind, folder / one.path) for one in files})

    def folder(self, name: str, *, pointer: str = "") -> Path:
        """The archive unpacked: `training_state/`, `models/` and `manifest.json` of a bundle, all of a checkpoint."""
        archive = self._archives.get(name)
        if archive is None:
            raise JobFailure(
                FailureCode.DEPENDENCY_FAILED,
                f"{pointer}: {name!r} is not an input of this attempt",
                hint="Name a job that succeeded, or a checkpoint, in `from`.",
            )
        target = archive.path.with_name(f"{archive.path.name}.unpacked")
        if not target.exists():
            aside = target.with_name(f"{target.name}.part")
            shutil.rmtree(aside, ignore_errors=True)
            try:
                archives.extract(archive.path, aside, wanted=_needed)
            except (UnsafeArchive, OSError) as error:
                raise JobFailure(FailureCode.CHECKPOINT_CORRUPT, f"{name!r} cannot be opened: {error}") from error
            aside.rename(target)
        return target

    def state_folder(self, name: str, *, pointer: str = "") -> Path:
        """The folder with `values.npz` and `state.json`."""
        folder = self.folder(name, pointer=pointer)
        return folder / "training_state" if (folder / "training_state").is_dir() else folder

    def model(self, name: str, role: str | None, *, pointer: str = "") -> keras.Model:
        """A model of a bundle; `role` None: its only one. Raises JobFailure."""
        asked = role or ""
        if self._architectures is not None:
            config = self._architectures[name][asked]
            model = keras.saving.deserialize_keras_object(copy.deepcopy(config))
        else:
            file = self._keras_file(name, role, pointer)
            config = _inspected(file, f"{pointer}: the model of {name!r}")
            try:
                model = keras.saving.load_model(file, compile=False, safe_mode=True)
            except (TypeError, ValueError, KeyError, OSError) as error:
                raise JobFailure(
                    FailureCode.NOT_SERIALIZABLE,
                    f"{pointer}: the model of {name!r} cannot be loaded: {type(error).__name__}: {text(error)}",
                    hint="The worker needs the components that the model was made with.",
                ) from error
        self.used.setdefault(name, {})[asked] = config
        self.loaded.append(model)
        return model

    def _keras_file(self, name: str, role: str | None, pointer: str) -> Path:
        folder = self.folder(name, pointer=pointer)
        files = {file.stem: file for file in sorted((folder / "models").glob("*.keras"))}
        if role is None and len(files) == 1:
            return next(iter(files.values()))
        if role is not None and role in files:
            return files[role]
        asked = f"no model {role!r}" if role is not None else "not one model"
        raise JobFailure(
            FailureCode.INVALID_SPEC,
            f"{pointer}: {name!r} has {asked}; its .keras models are: {', '.join(files) or 'none'}",
            hint="A checkpoint has no architecture: name the job, exported with the format keras, and a role.",
        )


# ── for components ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class EarlierJob:
    """What a component's argument annotated `tapeworks.EarlierJob` is given."""

    inputs: Inputs
    name: str
    pointer: str

    def model(self, role: str | None = None) -> keras.Model:
        """A Keras model of the job's bundle. Raises JobFailure."""
        return self.inputs.model(self.name, role, pointer=self.pointer)

    def layer(self, model: keras.Model, name: str) -> Any:
        """A layer of such a model. Raises ValueError with the names that there are."""
        names = [layer.name for layer in model.layers]
        if name not in names:
            raise ValueError(f"{name!r} is not a layer of the model; its layers are {', '.join(names)}")
        found = model.get_layer(name)
        if Names.of(model.layers).stem(name) is not None:
            what = f"layer {names.index(name) + 1} of {len(names)} of {self.name!r} ({type(found).__name__})"
            self.inputs.numbered.append((self.pointer, f"the automatic name {name!r} is {what}"))
        return found


def earlier_job(name: Any, inputs: Inputs | None, *, component: str, pointer: str) -> EarlierJob:
    """The earlier job that a config names. Raises JobFailure where there are no inputs."""
    if inputs is None:
        where = Location(component=component)
        raise JobFailure(FailureCode.DEPENDENCY_FAILED, f"{pointer}: {name!r} was not given", location=where)
    return EarlierJob(inputs, name, pointer)


# ── archives ─────────────────────────────────────────────────────────────────────────────────────


def _needed(entry: archives.Entry) -> bool:
    """Whether a file of a bundle or checkpoint is read from an earlier job."""
    first = PurePosixPath(entry.name).parts[0]
    return first in ("training_state", "models") or entry.name in ("values.npz", "state.json", "manifest.json")


def _inspected(file: Path, what: str) -> Any:
    """The architecture in a `.keras` file, once the file is seen to be harmless. Raises JobFailure `invalid_data`.

    Loading one can run code (CVE-2025-1550 and its successors got round `safe_mode`), and a small one can take all
    memory.
    """
    # Imported here: in a process that has other components, and verifier B is one, it must not be registered.
    from tapeworks_workers.components.models.functional import check_config

    try:
        config = keras_config(file)
        check_config(config, "config")
    except (UnsafeArchive, ValueError) as error:
        raise JobFailure(FailureCode.INVALID_DATA, f"{what} is refused: {error}") from error
    return config
