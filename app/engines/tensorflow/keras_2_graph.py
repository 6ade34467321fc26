"""From the config of a Keras 2 model to one that Keras 3 reads: one flat graph, whatever models stood in the model.

Keras 3 counts the calls of a model in a model otherwise, takes no slash in a name, and stumbles over settings that are
gone. So layers are taken out of the models that hold them, and get plain names; what each was called is kept for the
weights.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.engines.tensorflow.keras_2_config import (
    INPUT,
    End,
    Graph,
    Spec,
    check_arguments,
    find_input_shape,
    list_paths,
    name_layers,
    name_of,
    read_ends,
    read_layers,
    read_operation,
)
from app.engines.tensorflow.keras_2_layers import Step, check_dtype, translate_layer
from app.engines.tensorflow.keras_2_operations import OPERATIONS, Tensor, translate_operation
from app.engines.tensorflow.keras_classes import LEGACY_MODELS
from app.errors import IntegrityError

MAX_CALLS = 20_000
"""Of layers, models in models counted as often as they are called; the largest of keras.applications has 1200."""
MODEL_NAME, FUNCTIONAL_MODULE = "network", "keras.src.models.functional"
Path = tuple[str, ...]


@dataclass(frozen=True)
class Reference(Tensor):
    """The output of one call of a layer in the new graph."""

    layer: str
    call: int = 0

    def write(self) -> dict[str, Any]:
        """Return it as Keras 3 writes it; it looks at the history alone."""
        config = {"shape": [None], "dtype": "float32", "keras_history": [self.layer, self.call, 0]}
        return {"class_name": "__keras_tensor__", "config": config}


Resolve = Callable[[End], Reference]


@dataclass(frozen=True)
class Origin:
    """What a layer of the new graph was in the old: its name, after those of the models round it."""

    path: Path
    trainable: bool


@dataclass
class Translation:
    """A model of Keras 3, and where the weights of its layers are."""

    layers: list[dict[str, Any]] = field(default_factory=list)
    origins: dict[str, Origin] = field(default_factory=dict)
    """By the new name, in the order in which Keras 2 kept them."""
    constants: dict[str, list[Any]] = field(default_factory=dict)
    outputs: list[Reference] = field(default_factory=list)

    @property
    def config(self) -> dict[str, Any]:
        """The config as Keras 3 reads it."""
        (output,) = self.outputs
        ends = {"input_layers": [self.layers[0]["name"], 0, 0], "output_layers": [output.layer, output.call, 0]}
        inner = {"name": MODEL_NAME, "trainable": True, "layers": self.layers, **ends}
        return {"module": FUNCTIONAL_MODULE, "class_name": "Functional", "config": inner, "registered_name": None}


def translate_model(spec: Spec) -> Translation:
    """Translate a whole model.

    Raises:
        IntegrityError: it is no model of one input and one output, or Keras 3 has nothing that computes the same.
    """
    try:
        return Translator().translate(spec)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"the config is not one of Keras 2: {type(error).__name__} {error}") from error


class Translator:
    """Builds a `Translation`, call by call."""

    def __init__(self) -> None:
        self._made = Translation()
        self._parts: dict[Path, list[dict[str, Any]]] = {}
        self._graphs: dict[Path, Graph] = {}
        self._chains: dict[Path, list[Spec]] = {}
        self._names: dict[str, int] = {}
        self._calls = 0

    def translate(self, spec: Spec) -> Translation:
        """Translate the outermost model."""
        shape = find_input_shape(spec)
        pixels = self._add((INPUT,), Step(INPUT, {"batch_shape": [None, *shape[1:]]}))
        self._made.outputs = self._call_model((), spec, [Reference(pixels["name"])])
        if len(self._made.outputs) != 1:
            raise IntegrityError("the model has not one input and one output")
        places = {path: place for place, path in enumerate(list_paths(spec))}
        origins = self._made.origins.items()
        self._made.origins = dict(sorted(origins, key=lambda item: places.get(item[1].path, -1)))
        return self._made

    def _call_model(self, path: Path, spec: Spec, inputs: Sequence[Reference]) -> list[Reference]:
        self._count()
        if spec["class_name"] != "Sequential":
            return self._call_functional(path, spec["config"], inputs)
        if path not in self._chains:
            layers = name_layers(read_layers(spec["config"]), nested=bool(path)).values()
            self._chains[path] = [layer for layer in layers if layer["class_name"] != INPUT]
        outputs = list(inputs)
        for layer in self._chains[path]:
            outputs = self._call_layer(path, layer, outputs)
        return outputs

    def _call_functional(self, path: Path, config: Spec, inputs: Sequence[Reference]) -> list[Reference]:
        if path not in self._graphs:
            self._graphs[path] = Graph(config, nested=bool(path))
        graph = self._graphs[path]
        if len(graph.inputs) != len(inputs):
            raise IntegrityError("a model is not called with as many inputs as it has")
        done = {graph.find_call(end): [reference] for end, reference in zip(graph.inputs, inputs, strict=True)}

        def resolve(end: End) -> Reference:
            return done[graph.find_call(end)][end[2]]

        for name, index in graph.calls:
            done[name, index] = self._call_node(path, graph.layers[name], index, resolve)
        return [resolve(end) for end in graph.outputs]

    def _call_node(self, path: Path, layer: Spec, index: int, resolve: Resolve) -> list[Reference]:
        call = layer["inbound_nodes"][index]
        if layer["class_name"] in OPERATIONS:
            operands, options = read_operation(call, resolve)
            check_dtype(layer["config"])
            steps = translate_operation(str(layer["config"]["function"]), operands, options)
            tensors = [operand for operand in operands if isinstance(operand, Reference)]
            name = name_of(layer)  # twice: a call of its own is no other layer's, whatever that is called
            return self._call_steps((*path, name, f"{name}_{index}"), steps, tensors)
        check_arguments(layer, call)
        return self._call_layer(path, layer, [resolve(end) for end in read_ends(call)])

    def _call_layer(self, path: Path, layer: Spec, inputs: Sequence[Reference]) -> list[Reference]:
        path = (*path, name_of(layer))
        if layer["class_name"] in LEGACY_MODELS:
            return self._call_model(path, layer, inputs)
        steps = [] if path in self._parts else translate_layer(layer["class_name"], layer["config"])
        return self._call_steps(path, steps, inputs, bool(layer["config"].get("trainable", True)))

    def _call_steps(
        self, path: Path, steps: Sequence[Step], inputs: Sequence[Reference], trainable: bool = True
    ) -> list[Reference]:
        """Call the layers made of one old layer, making them before the first call."""
        self._count()
        if path not in self._parts:
            self._parts[path] = [self._add(path, step, trainable) for step in steps]
        outputs = list(inputs)
        for part in self._parts[path]:
            tensors = [reference.write() for reference in outputs]
            calls = part["inbound_nodes"]
            calls.append({"args": tensors if len(tensors) == 1 else [tensors], "kwargs": {}})
            outputs = [Reference(part["name"], len(calls) - 1)]
        if len(outputs) != 1:
            raise IntegrityError(f"{path[-1]:.60} has more than one input")
        return outputs

    def _count(self) -> None:
        """Count a call; models in models can make a short file a very long one."""
        self._calls += 1
        if self._calls > MAX_CALLS:
            raise IntegrityError(f"the model calls more than {MAX_CALLS} layers")

    def _add(self, path: Path, step: Step, trainable: bool = True) -> dict[str, Any]:
        """Put a layer into the new graph, under a name that is no other's."""
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", path[-1])
        count = self._names[name] = self._names.get(name, 0) + 1
        while count > 1 and f"{name}_{count}" in self._names:
            count = self._names[name] = count + 1
        name = name if count == 1 else f"{name}_{count}"
        self._names.setdefault(name, 1)
        config = {**step.settings, "name": name, "dtype": "float32"}
        layer: dict[str, Any] = {"module": "keras.layers", "class_name": step.kind, "registered_name": None}
        layer |= {"name": name, "config": config, "inbound_nodes": []}
        self._made.layers.append(layer)
        if step.kernel is None:
            self._made.origins[name] = Origin(path, trainable)
        else:
            self._made.constants[name] = step.kernel
        return layer
