"""The OpenAPI document is valid, complete, and true of the running server."""

import base64
import io
import json
import random
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from werkzeug.test import TestResponse

from app import __version__
from app.api.openapi import DOCUMENT
from app.api.predict.predictions import OLDER
from app.api.request.services import NOTICE
from app.errors import AnsweredError
from tests.conftest import LiveServer, basic

Document = dict[str, Any]

MODEL = "pcam-classification"
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
RAW_TYPES = ("image/png", "image/jpeg", "image/tiff", "image/bmp", "image/webp", "application/octet-stream")
ACCEPTED = ["*/*", "application/json", "text/plain", "text/html", "image/*", "", "nonsense"]
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
# Examples and boundary cases are generated from the document whatever their number; this bounds the random ones.
CONFIG = {
    "seed": 1,
    "generation": {
        "max-examples": 15,
        "deterministic": True,
        "no-shrink": True,
        "database": "none",
        # Wrong passwords cost the server a scrypt hash each; test_auth.py has them.
        "with-security-parameters": False,
    },
}


@pytest.fixture(scope="module")
def document() -> Document:
    """The document as it stands in the file."""
    return read_document()


def read_document() -> Document:
    document: Document = json.loads(DOCUMENT.read_text(encoding="utf-8"))
    return document


def list_operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    """Every path, method and operation."""
    for path, item in document["paths"].items():
        for method in sorted(METHODS & item.keys()):
            yield path, method, item[method]


OPERATIONS = [
    pytest.param(path, method, operation, id=f"{method.upper()} {path}")
    for path, method, operation in list_operations(read_document())
]


def resolve(document: Document, node: Document) -> Document:
    """Follow a reference, if the node is one."""
    if set(node) != {"$ref"}:
        return node
    for key in node["$ref"].removeprefix("#/").split("/"):
        document = document[key]
    return document


def validate(document: Document, schema: Document, value: object) -> None:
    """Fail unless a value fits a schema of the document."""
    whole = {**schema, "components": document["components"]}
    jsonschema_rs.Draft202012Validator(whole, validate_formats=True).validate(value)


def validate_answer(document: Document, path: str, answer: TestResponse) -> Any:
    """Fail unless an answer is one the document has for the operation; return its JSON or text."""
    operation = document["paths"][path][answer.request.method.lower()]
    assert str(answer.status_code) in operation["responses"], answer.get_data(as_text=True)
    response = resolve(document, operation["responses"][str(answer.status_code)])
    for name, reference in response["headers"].items():
        header = resolve(document, reference)
        if not header["required"] and name not in answer.headers:
            continue
        value = answer.headers[name]
        validate(document, header["schema"], int(value) if header["schema"]["type"] == "integer" else value)
    assert answer.mimetype in response["content"]
    body = answer.json if answer.is_json else answer.get_data().decode("latin-1")
    answer.close()
    validate(document, response["content"][answer.mimetype]["schema"], body)
    return body


# The document itself


def test_document_fits_the_schema_of_openapi_3_1(document: Document) -> None:
    assert document["openapi"].startswith("3.1.")
    schemathesis.openapi.from_dict(deepcopy(document)).validate()


def test_openapi_spec_validator_accepts_the_document(document: Document) -> None:
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(document, cls=validator.OpenAPIV31SpecValidator)


def test_document_has_the_version_of_the_app(document: Document) -> None:
    assert document["info"]["version"] == __version__


def test_document_says_research_use_only(document: Document) -> None:
    assert "research use only, never a diagnosis" in document["info"]["description"].lower()
    assert document["components"]["schemas"]["Notice"]["const"] == NOTICE


def test_every_route_is_documented_and_nothing_else(document: Document, app: Flask) -> None:
    routes = {
        (rule.rule.replace("<", "{").replace(">", "}"), method.lower())
        for rule in app.url_map.iter_rules()
        if rule.endpoint not in ("static", f"predictions.{OLDER}")
        for method in (rule.methods or set()) - automatic_methods(rule)
    }
    assert {(path, method) for path, method, _ in list_operations(document)} == routes


def automatic_methods(rule: Any) -> set[str]:
    """The methods that Flask adds to a rule by itself."""
    return {"HEAD", "OPTIONS"} if rule.provide_automatic_options else {"HEAD"}


def test_every_path_names_its_own_parameters(document: Document) -> None:
    for path, item in document["paths"].items():
        parameters = [resolve(document, parameter) for parameter in item["parameters"]]
        named = {parameter["name"] for parameter in parameters if parameter["in"] == "path"}
        assert named == set(re.findall(r"\{(\w+)\}", path))


def test_operation_ids_are_unique(document: Document) -> None:
    ids = [operation["operationId"] for _, _, operation in list_operations(document)]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("path, method, operation", OPERATIONS)
def test_every_operation_is_described(path: str, method: str, operation: Document, document: Document) -> None:
    assert operation["summary"]
    assert operation["description"]
    assert len(operation["tags"]) == 1
    assert operation["tags"][0] in {tag["name"] for tag in document["tags"]}


@pytest.mark.parametrize("path, method, operation", OPERATIONS)
def test_every_answer_has_a_request_id(path: str, method: str, operation: Document, document: Document) -> None:
    for response in operation["responses"].values():
        assert "X-Request-ID" in resolve(document, response)["headers"]


@pytest.mark.parametrize("path, method, operation", OPERATIONS)
def test_only_what_is_documented_as_open_needs_no_password(
    path: str, method: str, operation: Document, document: Document, client: FlaskClient
) -> None:
    filled = path.format(model_name=MODEL, version="1.0", file="none.png", request_id="none-such")
    answer = client.open(filled, method=method.upper())
    if operation.get("security") == []:
        assert answer.status_code == 200
        assert "401" not in operation["responses"]
    else:
        assert answer.status_code == 401
        validate_answer(document, path, answer)


def test_error_types_are_those_of_the_code(document: Document) -> None:
    types, kinds = {"RequestUriTooLongException"}, [AnsweredError]  # the server's own refusal, before the app
    while kinds:
        kind = kinds.pop()
        types.add(kind.type)
        kinds += kind.__subclasses__()
    assert set(document["components"]["schemas"]["Error"]["properties"]["type"]["enum"]) == types


def test_every_example_fits_its_schema(document: Document) -> None:
    seen = 0
    for node in walk(document["paths"] | document["components"]):
        if isinstance(schema := node.get("schema"), dict):
            several = [example["value"] for example in node.get("examples", {}).values()]
            examples = several + ([node["example"]] if "example" in node else [])
        elif "type" in node and isinstance(node.get("examples"), list):
            schema, examples = node, node["examples"]
        else:
            continue
        for example in examples:
            validate(document, schema, example)
        seen += len(examples)
    assert seen > 30


def walk(node: Any) -> Iterator[Document]:
    """Every object within a JSON value, without looking into examples."""
    if isinstance(node, dict):
        yield node
        for key, value in node.items():
            if key not in ("example", "examples"):
                yield from walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value)


@pytest.mark.parametrize("method, path", [("GET", "/api-description"), ("OPTIONS", "/")])
def test_document_is_served(method: str, path: str, document: Document, client: FlaskClient) -> None:
    answer = client.open(path, method=method, headers=basic())
    assert validate_answer(document, path, answer) == document


# Real answers


def form(*files: bytes) -> Document:
    """A form with files under the key `image`."""
    return {"image": [(io.BytesIO(file), f"{number}.png") for number, file in enumerate(files)]}


def instances(*files: bytes) -> Document:
    """A JSON body."""
    return {"instances": [{"data": base64.b64encode(file).decode()} for file in files]}


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("path", ["/predictions/{model_name}", "/predictions/{model_name}/{version}"])
@pytest.mark.parametrize(
    "make_body",
    [
        lambda file: {"data": file, "content_type": "image/png"},
        lambda file: {"data": file},
        lambda file: {"data": form(file)},
        lambda file: {"json": instances(file)},
    ],
    ids=["raw", "raw without a type", "form", "json"],
)
def test_answer_for_one_picture_is_as_documented(
    make_body: Callable[[bytes], Document],
    path: str,
    method: str,
    document: Document,
    client: FlaskClient,
    pcam_example: bytes,
) -> None:
    filled = path.format(model_name=MODEL, version="1.0")
    answer = client.open(filled, method=method, headers=basic(), **make_body(pcam_example))
    prediction = validate_answer(document, path, answer)
    assert answer.status_code == 200
    assert prediction["model"] == MODEL
    assert prediction["notice"] == NOTICE
    assert prediction["request_id"] == answer.headers["X-Request-ID"]


@pytest.mark.parametrize(
    "make_body",
    [lambda *files: {"data": form(*files)}, lambda *files: {"json": instances(*files)}],
    ids=["form", "json"],
)
def test_answer_for_several_pictures_is_as_documented(
    make_body: Callable[..., Document],
    document: Document,
    client: FlaskClient,
    pcam_example: bytes,
    isic_example: bytes,
) -> None:
    body = make_body(pcam_example, b"no picture", pcam_example[:-40], isic_example)
    answer = client.post(f"/predictions/{MODEL}", headers=basic(), **body)
    items = validate_answer(document, "/predictions/{model_name}", answer)["predictions"]
    assert [item.get("code", 200) for item in items] == [200, 415, 422, 200]
    assert [item["input"]["format"] for item in items if "input" in item] == ["PNG", "JPEG"]


@pytest.mark.parametrize(
    "files, accepted", [(1, "text/plain"), (2, "TEXT/PLAIN"), (1, "text/*"), (1, "text/plain; charset=UTF-8")]
)
def test_plain_text_answer_is_as_documented(
    files: int, accepted: str, document: Document, client: FlaskClient, pcam_example: bytes
) -> None:
    headers = basic() | {"Accept": accepted}
    answer = client.post(f"/predictions/{MODEL}", headers=headers, data=form(*[pcam_example] * files))
    lines = validate_answer(document, "/predictions/{model_name}", answer).splitlines()
    assert answer.mimetype == "text/plain"
    assert len(lines) == files


@pytest.mark.parametrize(
    "path",
    [
        "/models",
        "/models/{model_name}",
        "/models/{model_name}/{version}",
        "/ping",
        "/health/live",
        "/health/ready",
        "/v1/models/{model_name}",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/{model_name}",
        "/v2/models/stats",
        "/v2/models/{model_name}/config",
        "/v2/models/{model_name}/ready",
        "/v2/models/{model_name}/stats",
        "/v2/models/{model_name}/versions/{version}",
        "/v2/models/{model_name}/versions/{version}/config",
        "/v2/models/{model_name}/versions/{version}/ready",
        "/v2/models/{model_name}/versions/{version}/stats",
    ],
)
def test_answer_of_a_get_is_as_documented(path: str, document: Document, client: FlaskClient) -> None:
    answer = client.get(path.format(model_name=MODEL, version="1.0"), headers=basic())
    assert answer.status_code == 200
    assert answer.is_json
    validate_answer(document, path, answer)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("path", ["/v2/models/{model_name}/infer", "/v2/models/{model_name}/versions/{version}/infer"])
def test_inference_is_as_documented(
    path: str, binary: bool, document: Document, client: FlaskClient, pcam_example: bytes
) -> None:
    body = json.loads(json.dumps(document["components"]["schemas"]["InferRequest"]["examples"][0]))
    body |= {"parameters": {"binary_data_output": binary}}
    body["inputs"][0]["data"] = [base64.b64encode(pcam_example).decode()]
    answer = client.post(path.format(model_name=MODEL, version="1.0"), headers=basic(), json=body)
    assert answer.status_code == 200
    assert answer.is_json is not binary
    validate_answer(document, path, answer)


def test_answers_of_kserve_v1_and_of_the_index_are_as_documented(
    document: Document, client: FlaskClient, pcam_example: bytes
) -> None:
    path = "/v1/models/{model_name}:predict"
    for files in ([pcam_example], [pcam_example] * 2):
        answer = client.post(path.format(model_name=MODEL), headers=basic(), json=instances(*files))
        assert len(validate_answer(document, path, answer)["predictions"]) == len(files)
    answer = client.post("/v2/repository/index", headers=basic())
    assert validate_answer(document, "/v2/repository/index", answer)


@pytest.mark.parametrize("path", ["/models", "/models/{model_name}"])
def test_page_for_a_browser_is_as_documented(path: str, document: Document, client: FlaskClient) -> None:
    headers = basic() | {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    page = validate_answer(document, path, client.get(path.format(model_name=MODEL), headers=headers))
    assert NOTICE in page


def test_every_example_picture_is_as_documented(document: Document, client: FlaskClient) -> None:
    urls = client.get(f"/models/{MODEL}", headers=basic()).json["examples"]
    for url in urls:
        answer = client.get(url, headers=basic())
        assert answer.status_code == 200
        validate_answer(document, "/models/{model_name}/examples/{file}", answer)
    assert urls


def test_metrics_are_as_documented(document: Document, client: FlaskClient) -> None:
    for query in ("", "?name[]=Requests2XX&name[]=scancer_requests_total"):
        validate_answer(document, "/metrics", client.get(f"/metrics{query}", headers=basic()))


@pytest.mark.parametrize(
    "status, model, request_",
    [
        (400, MODEL, {"data": b""}),
        (400, MODEL, {"data": b"{", "content_type": "application/json"}),
        (400, MODEL, {"data": {"name": "value"}, "content_type": "multipart/form-data"}),
        (404, "no-model", {"data": b"any"}),
        (404, f"{MODEL}/none", {"data": b"any"}),
        (415, MODEL, {"data": b"no picture"}),
        (422, MODEL, {"data": b"\x89PNG\r\n\x1a\n"}),
    ],
)
def test_error_answer_is_as_documented(
    status: int, model: str, request_: Document, document: Document, client: FlaskClient
) -> None:
    path = "/predictions/{model_name}/{version}" if "/" in model else "/predictions/{model_name}"
    answer = client.post(f"/predictions/{model}", headers=basic(), **request_)
    assert answer.status_code == status
    assert validate_answer(document, path, answer)["code"] == status


def test_too_large_body_is_answered_as_documented(document: Document, app: Flask, client: FlaskClient) -> None:
    body = bytes(app.config["MAX_CONTENT_LENGTH"] + 1)
    answer = client.post(f"/predictions/{MODEL}", headers=basic(), data=body)
    assert answer.status_code == 413
    validate_answer(document, "/predictions/{model_name}", answer)


def test_wrong_method_is_answered_as_documented(document: Document, client: FlaskClient) -> None:
    for path, item in document["paths"].items():
        answer = client.patch(
            path.format(model_name=MODEL, version="1.0", file="none.png", request_id="none-such"), headers=basic()
        )
        assert answer.status_code == 405
        for method in METHODS & item.keys():
            assert method.upper() in answer.headers["Allow"]
        if path.startswith(("/v1", "/v2")):
            assert list(answer.json) == ["error"]
        else:
            assert answer.json["type"] == "MethodNotAllowedException"


# Any answer: pictures and requests made up


@st.composite
def make_pictures(draw: st.DrawFn) -> bytes:
    """Pictures of every accepted format, some of them cut or changed, and bytes that are no picture."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=64))
    kind, modes = draw(
        st.sampled_from(
            [
                ("PNG", ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
                ("JPEG", ("L", "RGB", "CMYK")),
                ("TIFF", ("1", "L", "RGB", "RGBA", "CMYK", "F", "I;16")),
                ("BMP", ("1", "L", "RGB")),
                ("WEBP", ("RGB", "RGBA")),
            ]
        )
    )
    size = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    mode, seed = draw(st.sampled_from(modes)), draw(st.integers(0, 1000))
    image = Image.new(mode, size)
    image.frombytes(random.Random(seed).randbytes(len(image.tobytes())))
    target = io.BytesIO()
    image.save(target, kind)
    body = bytearray(target.getvalue())
    place = draw(st.integers(0, 4 * len(body)))
    if place < len(body):
        body[place] ^= 0x55
        body = body[: len(body) - draw(st.integers(0, 1)) * place]
    return bytes(body)


@settings(max_examples=100, derandomize=True, deadline=None, database=None)
@given(
    files=st.lists(make_pictures(), min_size=1, max_size=3),
    wrap=st.sampled_from(["raw", "form", "json"]),
    accept=st.sampled_from(ACCEPTED),
    method=st.sampled_from(["POST", "PUT"]),
)
def test_answer_for_any_picture_is_as_documented(
    files: list[bytes], wrap: str, accept: str, method: str, document: Document, app: Flask
) -> None:
    body = {"raw": {"data": files[0]}, "form": {"data": form(*files)}, "json": {"json": instances(*files)}}[wrap]
    headers = basic() | {"Accept": accept}
    answer = app.test_client().open(f"/predictions/{MODEL}", method=method, headers=headers, **body)
    assert answer.status_code in (200, 400, 415, 422)
    validate_answer(document, "/predictions/{model_name}", answer)


def load_schema() -> schemathesis.BaseSchema:
    """The document with model names and pictures of which many are right: made up ones would end in 404 and 415."""
    document = read_document()
    parameters, schemas = (document["components"][kind] for kind in ("parameters", "schemas"))
    parameters["ModelName"]["schema"] = {"type": "string", "enum": [MODEL, "isic-classification", "no-model"]}
    parameters["Version"]["schema"] = {"type": "string", "enum": ["1.0", "none"]}
    for item in document["paths"].values():
        item["parameters"].append({"name": "Accept", "in": "header", "schema": {"type": "string", "enum": ACCEPTED}})
    schemas["Base64"] = {"type": "string", "format": "base64-picture"}
    schemathesis.openapi.media_type(RAW_TYPES[0], make_pictures(), aliases=RAW_TYPES[1:])
    schemathesis.openapi.format("binary", make_pictures())
    schemathesis.openapi.format("base64-picture", make_pictures().map(lambda body: base64.b64encode(body).decode()))
    return schemathesis.openapi.from_dict(document, config=SchemathesisConfig.from_dict(CONFIG))


api = load_schema()
FRAMING = {"connection", "content-length", "expect", "host", "transfer-encoding", "upgrade"}
"""Headers that say where a request ends and who reads it; no document of an API has them."""


# Against a real server: gunicorn, two workers.
@api.parametrize()
def test_every_answer_is_as_documented(case: schemathesis.Case, server: LiveServer) -> None:
    base_url = server.metrics if case.path == "/metrics" else server.inference
    if case.operation.definition.raw["tags"] == ["Management"]:  # by a user who may not change anything
        base_url = server.management
    for name in FRAMING & {name.lower() for name in case.headers}:  # made up ones are refused before there is a path
        case.headers.pop(name)
    answer = case.call(base_url=base_url, headers=basic(), timeout=30)
    # A caller who asks for an answer within a millisecond gets 504, and that is as it should be.
    checks = [check for check in CHECKS if answer.status_code != 504 or check is not not_a_server_error]
    case.validate_response(answer, checks=checks)
