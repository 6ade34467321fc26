"""KServe's predictions: `POST /v2/models/<m>[/versions/<v>]/infer`, and `POST /v1/models/<m>:predict` and `:explain`.

The first is the Open Inference Protocol v2. Its one input holds one picture or more: files (BYTES), pixels of any size
(UINT8, [N, H, W, 3]), or the network's own input (FP32, [N, 3, H, W] or [N, H, W, 3]). Its outputs are `probabilities`
(FP32, [N, classes]) and `label` (BYTES, [N], the class at the threshold).

Neither protocol has a place for the error of one picture among several: it fails the request, and names the picture.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue

from app.api.kserve.handler_instances import answer_instances, read_instance_parts
from app.api.kserve.tensors import (
    HEADER_LENGTH,
    InputTensor,
    OutputTensor,
    read_input,
    read_parameters,
    split_body,
    write_answer,
)
from app.api.predict.answers import (
    SEVERAL,
    add_version_headers,
    json_text,
    make_prediction,
    observe,
    observe_distance,
    read_patience,
    takes_unfit,
)
from app.api.predict.classifier_predictions import make_answer, read_picture
from app.api.predict.explanations import lend_explainer
from app.api.predict.handler_predictions import Call, answer_by_handler
from app.api.request.auth import require
from app.api.request.bodies import check_count, read_document, read_instances
from app.api.request.parameters import Parameters
from app.api.request.services import NOTICE, RequestFacts, facts, services
from app.errors import AnsweredError, BadRequestError
from app.handlers.client.handler_model import HandlerModel
from app.manifest.bounds import BEST_CLASSES
from app.manifest.model_manifest import ModelManifest
from app.manifest.model_specs import InputSpec
from app.pipeline.decoding.limits import PixelSum
from app.pipeline.decoding.raw_pixels import denormalize
from app.pipeline.patience import Patience
from app.pipeline.served_model import Prediction, ServedModel, Upload
from app.registry.model_entry import ModelEntry
from app.registry.serving_table import require_served

blueprint = Blueprint("open_inference", __name__)

NO_ENVELOPE = (
    'Model "{0}" has no service envelope: ask /explanations/{0}, or name "kservev2" as its envelope in the archive.'
)
OUTPUTS = PROBABILITIES, LABEL = "probabilities", "label"


@dataclass(frozen=True)
class RequestedOutput:
    """An output that the caller asks for: numbers, or its `best` classes as texts `score:index:label` if above 0."""

    name: str
    is_binary: bool
    best: int


@blueprint.post("/v2/models/<model_name>/infer")
@blueprint.post("/v2/models/<model_name>/versions/<version>/infer")
@require("predict")
def infer(version: str | None = None, **_: str) -> ResponseReturnValue:
    """Classify the pictures of a tensor, or answer by the handler of an archive that has an envelope."""
    known = facts()
    entry = known.find_lent()
    if entry.handler is not None and entry.handler.has_envelope:
        return answer_document(entry.handler, Call(version, is_document=True))
    served = find_model(entry, version, known)
    patience = read_patience()
    request_id, outputs, uploads = read_document(partial(read_question, served.manifest.input, patience), patience)
    predictions = predict_all(served, uploads, patience)
    head: dict[str, Any] = {
        "model_name": served.manifest.name,
        "model_version": served.manifest.version,
        "id": request_id,
        "parameters": {"notice": NOTICE} | list_warnings(predictions),
    }
    tensors = [make_output(output, predictions, served.manifest) for output in outputs]
    body, json_length = write_answer(head, tensors)
    if json_length is None:
        return Response(body, mimetype="application/json")
    return Response(body, mimetype="application/octet-stream", headers={HEADER_LENGTH: str(json_length)})


@blueprint.post("/v2/models/<model_name>/explain")
@require("predict")
def explain_tensors(**_: str) -> ResponseReturnValue:
    """Explain the prediction of tensors by the handler of an archive that has an envelope: TorchServe's path."""
    with lend_explainer() as explainer:
        if not explainer.has_envelope:
            raise BadRequestError(NO_ENVELOPE.format(explainer.name))
        return answer_document(explainer, Call(is_explained=True, is_document=True))


@blueprint.post("/v1/models/<model_name>:predict")
@blueprint.post("/v1/models/<model_name>/versions/<version>:predict")
@require("predict")
def predict_instances(version: str | None = None, **_: str) -> ResponseReturnValue:
    """Classify the pictures of `{"instances": [{"data": "<base64>"}]}`; the answer is always a list."""
    known = facts()
    entry = known.find_lent()
    if entry.handler is not None:
        return answer_instances(entry.handler, is_explained=False)
    served = find_model(entry, version, known)
    labels, most, patience = served.manifest.output.labels, services().settings.max_images, read_patience()
    if labels is not None:  # as the default handler of a model archive
        pictures = read_document(
            lambda body: [read_picture(parts) for parts in read_instance_parts(body, most)], patience
        )
        named = [make_answer(each, labels) for each in predict_all(served, pictures, patience)]
        return add_version_headers(json_text({"predictions": named}), served.manifest.version)
    uploads = read_document(lambda body: read_instances(body, most), patience)
    predictions = predict_all(served, uploads, patience)
    answers = [make_prediction(each, served.manifest, known.request_id) for each in predictions]
    return json_text({"predictions": answers})


@blueprint.post("/v1/models/<model_name>:explain")
@require("predict")
def explain_instances(**_: str) -> ResponseReturnValue:
    """Explain the predictions of `{"instances": [{"data": "<base64>", "target": 0}]}`; the answer is always a list."""
    with lend_explainer() as explainer:
        return answer_instances(explainer, is_explained=True)


def answer_document(handler: HandlerModel, call: Call) -> Response:
    """Answer tensors by a handler that has an envelope; raises `BadRequestError` for binary ones."""
    if HEADER_LENGTH in request.headers:
        raise BadRequestError("This model takes no binary tensors: send their data as JSON.")
    return answer_by_handler(handler, call)


def read_question(
    spec: InputSpec, patience: Patience, body: bytes
) -> tuple[str, list[RequestedOutput], Sequence[Upload]]:
    """Read the id of a request, the outputs that it asks for, and its pictures."""
    document, binary = split_body(body, request.headers.get(HEADER_LENGTH))
    if document is None:
        return read_id({}), read_outputs({}), [bytes(binary)]
    tensor = read_input(document, binary)
    return read_id(document), read_outputs(document), read_pictures(tensor, spec, patience)


def find_model(entry: ModelEntry, version: str | None, known: RequestFacts) -> ServedModel:
    """Return the model that is lent for this request, and note for the log which it is; raises as `require_served`."""
    served = require_served(entry, version)
    known.model, known.version = served.manifest.name, served.manifest.version
    return served


def read_id(document: dict[str, Any]) -> str:
    """Return the caller's own `id`, or else the id of the request."""
    given = document.get("id")
    if given is not None and not isinstance(given, str):
        raise BadRequestError("id must be a text.")
    return given or facts().request_id


def read_outputs(document: dict[str, Any]) -> list[RequestedOutput]:
    """Return the outputs that the caller asks for; all outputs if it asks for none."""
    all_binary = read_flag(read_parameters(document), "binary_data_output", default=False)
    asked = document.get("outputs") or [{"name": name} for name in OUTPUTS]
    if not isinstance(asked, list) or not all(isinstance(each, dict) for each in asked):
        raise BadRequestError("outputs must be a list of objects.")
    if len(asked) > len(OUTPUTS):
        raise BadRequestError(f"The outputs are {PROBABILITIES} and {LABEL}; more are asked for.")
    outputs = [read_output(each, all_binary) for each in asked]
    if len({output.name for output in outputs}) < len(outputs):
        raise BadRequestError("An output is asked for twice.")
    return outputs


def read_output(asked: dict[str, Any], all_binary: bool) -> RequestedOutput:
    """Read one requested output."""
    name, parameters = asked.get("name"), read_parameters(asked)
    if name not in OUTPUTS:
        raise BadRequestError(f"The outputs are {PROBABILITIES} and {LABEL}; another one is asked for.")
    best = Parameters(parameters).whole("classification", BEST_CLASSES) or 0
    if best and name == LABEL:
        raise BadRequestError(f"classification is for {PROBABILITIES} alone.")
    return RequestedOutput(name, read_flag(parameters, "binary_data", all_binary), best)


def read_flag(parameters: dict[str, Any], name: str, default: bool) -> bool:
    """Read a parameter that is true or false."""
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise BadRequestError(f"{name} must be true or false.")
    return value


def read_pictures(tensor: InputTensor, spec: InputSpec, patience: Patience) -> Sequence[Upload]:
    """Find the pictures in a tensor: files, pixels of any size, or the network's own input."""
    if tensor.datatype == "BYTES":
        pictures: Sequence[Upload] = tensor.to_elements(services().settings.max_images)
    else:
        pictures = read_pixels(add_batch(tensor), spec, patience)
    if not pictures:
        raise BadRequestError("The input holds no picture.")
    return pictures


def add_batch(tensor: InputTensor) -> InputTensor:
    """Return a tensor of pixels with its first dimension, N; one picture is often sent without it."""
    return replace(tensor, shape=(1, *tensor.shape)) if len(tensor.shape) == 3 else tensor


def read_pixels(tensor: InputTensor, spec: InputSpec, patience: Patience) -> Sequence[Upload]:
    """Read pixels of any size, or the network's own input: (pixel - mean) / std, channels first or last."""
    height, width = spec.height_px, spec.width_px
    if tensor.datatype == "UINT8":
        is_first, is_known, wanted = False, tensor.shape[3:] == (3,), "[N, height, width, 3], RGB"
    else:
        is_first = tensor.shape[1:] == (3, height, width)
        is_known = is_first or tensor.shape[1:] == (height, width, 3)
        wanted = f"[N, 3, {height}, {width}] or [N, {height}, {width}, 3]"
    if not is_known:
        raise BadRequestError(
            f"A{'n' * (tensor.datatype == 'FP32')} {tensor.datatype} input must have the shape {wanted}; "
            f"this one has {list(tensor.shape)}. N may be left out for one picture."
        )
    check_count(tensor.shape[0], services().settings.max_images)
    values = tensor.to_array(patience)
    if tensor.datatype == "UINT8":  # resized as the pixels of a file are
        return list(values)
    values = values.transpose(0, 2, 3, 1) if is_first else values
    return [np.ascontiguousarray(denormalize(value, spec)) for value in values]


def predict_all(served: ServedModel, uploads: Sequence[Upload | AnsweredError], patience: Patience) -> list[Prediction]:
    """Classify pictures as one batch; raises the error of the first picture that cannot be taken."""
    known = facts()
    known.images = len(uploads)
    pixel_sum = PixelSum(services().settings.max_pixels)
    answers, timing = served.predict_many(uploads, patience, pixel_sum, takes_unfit())
    known.timing = timing  # also of a request that is refused below
    for answer in answers:
        observe_distance(served.manifest, answer)
    for place, answer in enumerate(answers, start=1):
        if isinstance(answer, AnsweredError):
            of = "" if len(answers) == 1 else f"Picture {place} of {len(answers)}: "
            error = copy(answer)  # a new one: that in this frame would keep the pictures
            error.args = (of + answer.message,)
            raise error
    predictions = [answer for answer in answers if isinstance(answer, Prediction)]
    known.outcome = predictions[0].decision.class_name if len(predictions) == 1 else SEVERAL
    observe(served.manifest, uploads, predictions, timing, known)
    return predictions


def list_warnings(predictions: Sequence[Prediction]) -> dict[str, str]:
    """Return the warnings of all pictures as one text: a parameter may be no list."""
    warnings = [
        f"Picture {place}: {warning}"
        for place, prediction in enumerate(predictions, start=1)
        for warning in (*prediction.picture.warnings, *(prediction.fit.reasons if prediction.fit else ()))
    ]
    return {"warnings": " ".join(warnings)} if warnings else {}


def make_output(asked: RequestedOutput, predictions: Sequence[Prediction], manifest: ModelManifest) -> OutputTensor:
    """Make an output: probabilities in the manifest's class order, the best of them as texts, or the labels."""
    decisions, count = [prediction.decision for prediction in predictions], len(predictions)
    if asked.name == LABEL:
        return OutputTensor(LABEL, [count], [decision.class_name for decision in decisions], asked.is_binary)
    rows = np.array([list(decision.probabilities.values()) for decision in decisions], dtype=np.float32)
    if not asked.best:
        return OutputTensor(PROBABILITIES, rows.shape, rows, asked.is_binary)
    classes = manifest.output.classes
    best = min(asked.best, len(classes))
    order = np.argsort(-rows, axis=1, kind="stable")[:, :best]
    texts = [f"{row[i]:f}:{i}:{classes[i]}" for row, chosen in zip(rows, order, strict=True) for i in chosen]
    return OutputTensor(PROBABILITIES, [count, best], texts, asked.is_binary)
