"""Classes, labels and errors of handlers."""

import inspect
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from types import ModuleType

logger = logging.getLogger(__name__)

TYPE_NAMES = "object_type_names"


class PredictionException(Exception):  # noqa: N818  # TorchServe's name
    """What a handler raises to answer with a message and a status of its own."""

    def __init__(self, message: str, error_code: int = HTTPStatus.INTERNAL_SERVER_ERROR.value) -> None:
        self.message = message
        self.error_code = error_code
        super().__init__(message)

    def __str__(self) -> str:
        return f"message : {self.message}, error_code : {self.error_code}"


def list_classes_from_module(module: ModuleType, parent_class: type | None = None) -> list[type]:
    """Return the classes that a module itself defines, of `parent_class` only if one is given."""
    own = [each for _, each in inspect.getmembers(module, inspect.isclass) if each.__module__ == module.__name__]
    return [each for each in own if parent_class is None or issubclass(each, parent_class)]


def load_label_mapping(mapping_file_path: str) -> dict[str, str] | None:
    """Read an `index_to_name.json`: names by the class's index as a string; of a list of names the last counts.

    Returns None where there is no file; raises `ValueError` or `TypeError` if it is not of this form.
    """
    path = Path(mapping_file_path)
    if not path.is_file():
        logger.warning("there is no %s; classes are called by their index", path.name)
        return None
    document = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(document, dict) and isinstance(document.get(TYPE_NAMES), list):
        document = {str(index): name for index, name in enumerate(document[TYPE_NAMES])}
    if not isinstance(document, dict):
        raise TypeError(f'{path.name} must hold an object: {{"0": "first class", …}}')
    names = {index: name[-1] if isinstance(name, list) and name else name for index, name in document.items()}
    if not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{path.name} must give each class a name, or a list whose last item is one")
    return names


def map_class_to_label(
    probs: Sequence[Sequence[float]],
    mapping: Mapping[str, str] | None = None,
    lbl_classes: Iterable[Sequence[int]] | None = None,
) -> list[dict[str, float]]:
    """Give probabilities, a row for each picture, the names of their classes.

    `mapping` has names by the class's index as a string; a class without one is called by its index. `lbl_classes` are
    the classes that the columns of each row stand for; without it the first, the second and so on.
    """
    if not isinstance(probs, Sequence):
        raise TypeError("probs must be a list of lists of probabilities")
    names = mapping or {}
    classes = lbl_classes if lbl_classes is not None else [range(len(row)) for row in probs]
    return [
        {names.get(str(index), str(index)): value for index, value in zip(indices, row, strict=False)}
        for indices, row in zip(classes, probs, strict=False)
    ]


def check_valid_pt2_backend(backend: str) -> bool:
    """Whether `torch.compile` knows a backend."""
    import torch

    return backend in torch._dynamo.list_backends(None)
