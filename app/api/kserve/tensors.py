"""Reads and writes the tensors of the Open Inference Protocol v2, as JSON and as binary parts.

A binary tensor is row-major and little-endian. An element of a BYTES tensor is its length as uint32, then its bytes. A
request with binary tensors begins with JSON, whose length `Inference-Header-Content-Length` states; the tensors follow.
"""

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from app.api.request.json_documents import LongNumbers, decode_text, flatten, read_json
from app.api.request.parameters import read_sent
from app.errors import BadRequestError
from app.manifest.bounds import BODY_BYTES, TENSOR_SIDE
from app.pipeline.decoding.decode import is_picture
from app.pipeline.patience import Patience

LENGTH_BYTES = 4
MAX_DIMENSIONS = 4
NUMBERS: dict[str, tuple[str, set[type]]] = {"UINT8": ("|u1", {int}), "FP32": ("<f4", {int, float})}
"""By datatype of numbers: numpy's name, and the types of its numbers in JSON."""
DATATYPES = ("BYTES", *NUMBERS)
HEADER_LENGTH = "Inference-Header-Content-Length"
RAW_HELP = f"with {HEADER_LENGTH}: 0 a picture file is taken as it is"


@dataclass(frozen=True)
class InputTensor:
    """A tensor of a request: its binary part, or its JSON values, flat or nested.

    The first number in the shape of a BYTES tensor may be unknown (-1).
    """

    datatype: str
    shape: tuple[int, ...]
    data: memoryview | list[Any] | LongNumbers

    def to_array(self, patience: Patience) -> NDArray[Any]:
        """Read the numbers; raises `BadRequestError` if their count does not fit the shape, or their type is wrong, and
        `DeadlineError`.
        """
        dtype, _ = NUMBERS[self.datatype]
        size = math.prod(self.shape)
        if isinstance(self.data, memoryview):
            if len(self.data) != size * np.dtype(dtype).itemsize:
                raise BadRequestError(f"The input has {len(self.data)} bytes, which do not fit its shape.")
            return np.frombuffer(self.data, dtype).reshape(self.shape)
        wrong = f"The input's data must be as many {self.datatype} numbers as its shape says."
        if isinstance(self.data, LongNumbers) and self.data.count() != size:
            raise BadRequestError(wrong)
        parts, depths, left = [], set(), size
        for values in self.data.read() if isinstance(self.data, LongNumbers) else [self.data]:
            patience.check()
            numbers, depth = flatten(values)
            depths.add(depth)
            left -= len(numbers)
            if left < 0 or len(depths) > 1:
                break
            parts.append(self._convert(numbers))
        if left or len(depths) > 1:
            raise BadRequestError(wrong)
        return np.concatenate(parts).reshape(self.shape)

    def _convert(self, numbers: list[Any]) -> NDArray[Any]:
        """Make an array of numbers; raises as `to_array`."""
        dtype, types = NUMBERS[self.datatype]
        if not set(map(type, numbers)) <= types:
            raise BadRequestError(f"The input's data must be {self.datatype} numbers.")
        if self.datatype == "UINT8" and numbers and not 0 <= min(numbers) <= max(numbers) <= 255:
            raise BadRequestError("UINT8 numbers must be from 0 to 255.")
        try:
            with np.errstate(over="ignore"):  # a number that is too large becomes infinite
                return np.array(numbers, dtype)
        except OverflowError:
            raise BadRequestError("A number is too large.") from None

    def to_elements(self, most: int) -> list[bytes]:
        """Read the elements of a BYTES tensor, at most `most`. Raises BadRequestError if they are malformed."""
        count, *others = self.shape
        if max(others, default=1) > 1:
            raise BadRequestError("A BYTES input must have the shape [N] or [N, 1].")
        if isinstance(self.data, LongNumbers):
            raise BadRequestError("The data of a BYTES input must be texts: files as base64.")
        elements = split_elements(self.data, most) if isinstance(self.data, memoryview) else flatten(self.data)[0]
        if len(elements) > most or count not in (-1, len(elements)):
            raise BadRequestError(f"The input must hold as many elements as its shape says, and at most {most}.")
        if isinstance(self.data, memoryview):
            return [bytes(each) for each in elements]
        return [decode_text(text, f"inputs[0].data[{index}]") for index, text in enumerate(elements)]


def split_elements(data: memoryview, most: int) -> list[memoryview]:
    """Split the binary part of a BYTES tensor, up to one element over `most`."""
    elements: list[memoryview] = []
    place = 0
    while place + LENGTH_BYTES <= len(data) and len(elements) <= most:
        end = place + LENGTH_BYTES + int.from_bytes(data[place : place + LENGTH_BYTES], "little")
        elements.append(data[place + LENGTH_BYTES : end])
        place = end
    if place != len(data) and len(elements) <= most:
        raise BadRequestError("The lengths of the input's BYTES elements do not fit its binary data.")
    return elements


def split_body(body: bytes, header_length: str | None) -> tuple[dict[str, Any] | None, memoryview]:
    """Split a request into its JSON, as long as the header's text says (None: all of it), and its binary part.

    A length of 0 marks a raw binary request, which has no JSON: all of it is the one element of a BYTES tensor, without
    the length of that (Triton's binary tensor data extension).
    """
    length = len(body)
    if header_length is not None:
        length = read_sent(HEADER_LENGTH, header_length, BODY_BYTES)
        if length > len(body):
            raise BadRequestError(f"The body is shorter than {HEADER_LENGTH} says.")
    is_raw = header_length is not None and not length
    return None if is_raw else read_object(body[:length]), memoryview(body)[length:]


def read_object(text: bytes) -> dict[str, Any]:
    """Read a JSON object; raises `BadRequestError` for any other text."""
    document = read_json(text, RAW_HELP if is_picture(text) else "")
    if not isinstance(document, dict):
        raise BadRequestError("The body's JSON is not an object.")
    return document


def read_optional_object(text: bytes) -> dict[str, Any]:
    """Read a JSON object, or none; raises `BadRequestError` for any other text."""
    return read_object(text) if text else {}


def read_parameters(node: dict[str, Any]) -> dict[str, Any]:
    """Return the `parameters` of a request, an input or an output; raises `BadRequestError` for refused ones."""
    parameters = node.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise BadRequestError("parameters must be an object.")
    if "shared_memory_region" in parameters:
        raise BadRequestError("Shared memory is not taken; send the data.")
    return parameters


def read_input(document: dict[str, Any], binary: memoryview) -> InputTensor:
    """Read the one input of a request, by whatever name; `binary` is what follows the JSON."""
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise BadRequestError("The request must have one input, which holds one picture or more.")
    tensor = inputs[0]
    datatype, shape, parameters = tensor.get("datatype"), tensor.get("shape"), read_parameters(tensor)
    if datatype not in DATATYPES:
        raise BadRequestError(f"The input's datatype must be one of {', '.join(DATATYPES)}.")
    if not is_shape(shape, least_first=-1 if datatype == "BYTES" else 1):
        raise BadRequestError("The input's shape must be a list of one to four positive whole numbers.")
    if parameters.get("content_type", "base64") != "base64":
        raise BadRequestError('The input\'s content_type must be "base64".')
    return InputTensor(datatype, tuple(shape), read_data(tensor, parameters, binary))


def is_shape(shape: Any, least_first: int) -> TypeGuard[list[int]]:
    """Whether a JSON value is a shape: numbers above 0; the first may also be `least_first`, if that is not 0."""
    if not isinstance(shape, list) or not 1 <= len(shape) <= MAX_DIMENSIONS:
        return False
    if any(type(number) is not int or number > TENSOR_SIDE.high for number in shape):
        return False
    return min(shape[1:], default=1) > 0 and shape[0] >= least_first and shape[0] != 0


def read_data(
    tensor: dict[str, Any], parameters: dict[str, Any], binary: memoryview
) -> memoryview | list[Any] | LongNumbers:
    """Find an input's data: the bytes that follow the JSON, or `data`."""
    if "binary_data_size" in parameters:
        size = parameters["binary_data_size"]
        if type(size) is not int or size != len(binary):
            raise BadRequestError("binary_data_size is not the number of bytes that follow the JSON.")
        return binary
    if len(binary):
        raise BadRequestError("Binary data follows the JSON, but the input has no binary_data_size.")
    data = tensor.get("data")
    if not isinstance(data, (list, LongNumbers)):
        raise BadRequestError("The input has neither a list of data nor a binary_data_size.")
    return data


@dataclass(frozen=True)
class OutputTensor:
    """A tensor of an answer: float32 of its shape, or texts in one list. If binary, its values follow the JSON."""

    name: str
    shape: Sequence[int]
    values: NDArray[np.float32] | list[str]
    is_binary: bool

    def to_json(self, size: int) -> dict[str, Any]:
        """Return the tensor's part of the JSON; `size` is the length of its binary part in bytes."""
        datatype = "BYTES" if isinstance(self.values, list) else "FP32"
        head = {"name": self.name, "datatype": datatype, "shape": list(self.shape)}
        if self.is_binary:
            return {**head, "parameters": {"binary_data_size": size}}
        return {**head, "data": self.values if isinstance(self.values, list) else self.values.ravel().tolist()}

    def to_binary(self) -> bytes:
        """Return the tensor's binary part."""
        if not isinstance(self.values, list):
            return self.values.astype("<f4").tobytes()
        return b"".join(struct.pack("<I", len(text)) + text for text in (value.encode() for value in self.values))


def write_answer(document: dict[str, Any], outputs: Sequence[OutputTensor]) -> tuple[bytes, int | None]:
    """Write an answer from its JSON and its outputs; return the body, and the bytes of its JSON (None: all of it)."""
    parts = [output.to_binary() if output.is_binary else b"" for output in outputs]
    tensors = [output.to_json(len(part)) for output, part in zip(outputs, parts, strict=True)]
    text = json.dumps({**document, "outputs": tensors}).encode()
    return b"".join([text, *parts]), len(text) if any(output.is_binary for output in outputs) else None
