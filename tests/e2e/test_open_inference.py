"""NVIDIA's `tritonclient` against a real gunicorn: every call of the Open Inference Protocol, right and wrong."""

import base64
import io
import json
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import requests
from google.protobuf import json_format
from PIL import Image
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.grpc.service_pb2 import ModelStatistics, ModelStatisticsResponse
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.http.auth import BasicAuth
from tritonclient.utils import InferenceServerException

from app import __version__
from tests.conftest import PASSWORD, USER, LiveServer

AUTH = (USER, PASSWORD)
MODEL = "pcam-classification"
INFER = f"/v2/models/{MODEL}/infer"


@pytest.fixture(scope="module")
def triton(server: LiveServer) -> Iterator[InferenceServerClient]:
    """A client with its Basic auth plugin."""
    with InferenceServerClient(server.inference.removeprefix("http://")) as client:
        client.register_plugin(BasicAuth(*AUTH))
        yield client


def file_input(*files: bytes) -> list[InferInput]:
    """Files as BYTES, as `set_data_from_numpy` writes them."""
    tensor = InferInput("image", [len(files), 1], "BYTES")
    tensor.set_data_from_numpy(np.array(files, dtype=np.object_).reshape(-1, 1))
    return [tensor]


def array_input(values: np.ndarray, datatype: str, binary: bool = True) -> list[InferInput]:
    tensor = InferInput("image", list(values.shape), datatype)
    tensor.set_data_from_numpy(values, binary_data=binary)
    return [tensor]


def expect(server: LiveServer, model: str, body: bytes) -> dict[str, float]:
    """What `/predictions` answers."""
    answer = requests.put(f"{server.inference}/predictions/{model}", data=body, auth=AUTH, timeout=30).json()
    probabilities: dict[str, float] = answer["probabilities"]
    return probabilities | {"class": answer["class"]}


def pixels_of(body: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(body)).convert("RGB"))[np.newaxis]


def normalize(pixels: np.ndarray) -> np.ndarray:
    return ((pixels.astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2).copy()


# Server and models


def test_server_is_live_and_ready_without_a_password(server: LiveServer) -> None:
    with InferenceServerClient(server.inference.removeprefix("http://")) as stranger:
        assert stranger.is_server_live()
        assert stranger.is_server_ready()
        with pytest.raises(InferenceServerException, match="user name and password"):
            stranger.get_server_metadata()


def test_metadata_of_server_and_model(triton: InferenceServerClient) -> None:
    assert triton.get_server_metadata() == {
        "name": "scancer-api",
        "version": __version__,
        "extensions": ["binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics"],
    }
    for version in ("", "1.0"):
        told = triton.get_model_metadata(MODEL, version)
        assert (told["name"], told["versions"], told["platform"]) == (MODEL, ["1.0"], "openvino")
        assert told["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1, 1]}]
        assert told["outputs"] == [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
        ]
        assert told["parameters"]["classes"] == "normal, metastatic"
        assert told["parameters"]["notice"] == "Research use only. Not for diagnosis."


def test_ready_models_are_told_from_unknown_ones(triton: InferenceServerClient) -> None:
    assert triton.is_model_ready(MODEL)
    assert triton.is_model_ready(MODEL, "1.0")
    assert not triton.is_model_ready(MODEL, "9.9")
    assert not triton.is_model_ready("no-model")


def test_repository_index_lists_every_version(triton: InferenceServerClient, server: LiveServer) -> None:
    index = triton.get_model_repository_index()
    assert [(entry["name"], entry["version"], entry["state"]) for entry in index] == [
        ("isic-classification", "1.0", "READY"),
        (MODEL, "1.0", "READY"),
    ]
    answer = requests.post(server.inference + "/v2/repository/index", json={"ready": True}, auth=AUTH, timeout=10)
    assert [entry["name"] for entry in answer.json()] == ["isic-classification", MODEL]


# What Triton adds to the protocol


@pytest.mark.parametrize(("model", "classes"), [(MODEL, 2), ("isic-classification", 2)])
def test_configuration_is_one_that_triton_could_have_and_fits_the_metadata(
    triton: InferenceServerClient, model: str, classes: int
) -> None:
    told = triton.get_model_config(model)
    assert told == triton.get_model_config(model, "1.0")
    config = json_format.ParseDict(told, ModelConfig())
    assert (config.name, config.platform, config.max_batch_size) == (model, "openvino", 64)
    assert [tensor.name for tensor in config.output] == ["probabilities", "label"]
    assert list(config.output[0].dims) == [classes]
    assert (config.instance_group[0].count, config.dynamic_batching.preferred_batch_size) == (2, [8])
    metadata = triton.get_model_metadata(model)
    for described, tensors in (("inputs", told["input"]), ("outputs", told["output"])):
        assert [each["shape"] for each in metadata[described]] == [[-1, *tensor["dims"]] for tensor in tensors]
    texts = {name: parameter.string_value for name, parameter in config.parameters.items()}
    assert texts == {name: str(value) for name, value in metadata["parameters"].items()}


def read_statistics(triton: InferenceServerClient) -> ModelStatistics:
    """The statistics of the one version, as Triton's own message."""
    told = triton.get_inference_statistics(MODEL)
    [statistics] = json_format.ParseDict(told, ModelStatisticsResponse()).model_stats
    assert (statistics.name, statistics.version) == (MODEL, "1.0")
    return statistics


def test_statistics_are_those_of_all_workers(
    triton: InferenceServerClient, server: LiveServer, pcam_example: bytes
) -> None:
    before = read_statistics(triton)
    url = f"{server.inference}/predictions/{MODEL}"
    for body in [pcam_example] * 12 + [b"no picture"] * 3:  # each with a connection of its own
        requests.put(url, data=body, auth=AUTH, timeout=30)
    triton.infer(MODEL, file_input(pcam_example, pcam_example))
    requests.get(f"{server.inference}{INFER}", auth=AUTH, timeout=10)  # 405: nothing was asked of the model
    answers = [read_statistics(triton) for _ in range(6)]  # whichever worker is asked
    assert len({answer.SerializeToString() for answer in answers}) == 1
    after = answers[0]
    assert after.inference_count - before.inference_count == 12 + 2
    for stage, count in (("success", 13), ("fail", 3), ("queue", 13), ("compute_input", 13), ("compute_infer", 13)):
        then, now = (getattr(each.inference_stats, stage) for each in (before, after))
        assert now.count - then.count == count, stage
        assert now.ns > then.ns, stage
    spent = {stage: getattr(after.inference_stats, stage).ns for stage in ("queue", "compute_input", "compute_infer")}
    assert sum(spent.values()) < after.inference_stats.success.ns


def test_statistics_are_of_one_version_of_all_versions_or_of_all_models(triton: InferenceServerClient) -> None:
    assert triton.get_inference_statistics(MODEL, "1.0") == triton.get_inference_statistics(MODEL)
    everything = triton.get_inference_statistics()["model_stats"]
    assert [each["name"] for each in everything] == ["isic-classification", MODEL]
    assert everything[1:] == triton.get_inference_statistics(MODEL)["model_stats"]


@pytest.mark.parametrize("key", [("no-model", ""), (MODEL, "9.9")])
def test_unknown_models_have_neither_configuration_nor_statistics(
    triton: InferenceServerClient, key: tuple[str, str]
) -> None:
    for call in (triton.get_model_config, triton.get_inference_statistics):
        with pytest.raises(InferenceServerException, match=r"not found|does not exist") as caught:
            call(*key)
        assert caught.value.status() == "404"


# Predictions


@pytest.mark.parametrize("model", [MODEL, "isic-classification"])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_file_gets_the_answer_of_predictions(
    triton: InferenceServerClient,
    server: LiveServer,
    model: str,
    compression: str | None,
    pcam_example: bytes,
    isic_example: bytes,
) -> None:
    body = pcam_example if model == MODEL else isic_example
    expected = expect(server, model, body)
    result = triton.infer(
        model,
        file_input(body),
        request_id="mine",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    assert result.get_response()["id"] == "mine"
    assert result.get_response()["model_version"] == "1.0"
    assert result.as_numpy("label").tolist() == [str(expected.pop("class")).encode()]
    assert result.as_numpy("probabilities").dtype == np.float32
    assert result.as_numpy("probabilities")[0] == pytest.approx(list(expected.values()), abs=2e-6)


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("kind", ["UINT8", "FP32"])
def test_array_gets_the_answer_of_predictions(
    triton: InferenceServerClient,
    server: LiveServer,
    kind: str,
    binary: bool,
    compression: str | None,
    pcam_example: bytes,
) -> None:
    expected = expect(server, MODEL, pcam_example)
    pixels = pixels_of(pcam_example)
    values = pixels if kind == "UINT8" else normalize(pixels)
    wanted = [InferRequestedOutput(name, binary_data=binary) for name in ("probabilities", "label")]
    result = triton.infer(
        MODEL,
        array_input(values, kind, binary),
        outputs=wanted,
        model_version="1.0",
        request_compression_algorithm=compression,
    )
    label = result.as_numpy("label")[0]
    assert (label.decode() if isinstance(label, bytes) else label) == expected.pop("class")
    assert result.as_numpy("probabilities")[0] == pytest.approx(list(expected.values()), abs=2e-6)
    assert ("data" in result.get_output("probabilities")) is not binary


def test_pixels_of_any_size_are_resized_as_a_file_is(triton: InferenceServerClient, server: LiveServer) -> None:
    picture = Image.fromarray(np.random.default_rng(3).integers(0, 256, (61, 140, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    expected = expect(server, MODEL, buffer.getvalue())
    result = triton.infer(MODEL, array_input(np.asarray(picture)[np.newaxis], "UINT8"))
    assert expected.pop("class") == result.as_numpy("label")[0].decode()
    assert result.as_numpy("probabilities")[0] == pytest.approx(list(expected.values()), abs=2e-6)


def test_several_files_are_answered_in_order(
    triton: InferenceServerClient, server: LiveServer, pcam_example: bytes, isic_example: bytes
) -> None:
    bodies = [pcam_example, isic_example, pcam_example]
    result = triton.infer(MODEL, file_input(*bodies))
    for row, label, body in zip(result.as_numpy("probabilities"), result.as_numpy("label"), bodies, strict=True):
        expected = expect(server, MODEL, body)
        assert label.decode() == expected.pop("class")
        assert row == pytest.approx(list(expected.values()), abs=2e-6)


def test_classification_comes_best_first(triton: InferenceServerClient, pcam_example: bytes) -> None:
    wanted = [InferRequestedOutput("probabilities", class_count=2)]
    result = triton.infer(MODEL, file_input(pcam_example), outputs=wanted)
    best, other = (text.decode().split(":") for text in result.as_numpy("probabilities")[0])
    assert float(best[0]) > float(other[0])
    assert {best[1] + best[2], other[1] + other[2]} == {"0normal", "1metastatic"}
    assert result.as_numpy("label") is None


def test_deadline_in_a_header_is_kept(triton: InferenceServerClient, pcam_example: bytes) -> None:
    with pytest.raises(InferenceServerException, match="deadline") as caught:
        triton.infer(MODEL, file_input(pcam_example), headers={"X-Request-Timeout-Ms": "0"})
    assert caught.value.status() == "504"


def test_asynchronous_calls_are_answered(server: LiveServer, pcam_example: bytes) -> None:
    with InferenceServerClient(server.inference.removeprefix("http://"), concurrency=4) as client:
        client.register_plugin(BasicAuth(*AUTH))
        pending = [client.async_infer(MODEL, file_input(pcam_example)) for _ in range(8)]
        labels = {call.get_result(timeout=30).as_numpy("label")[0] for call in pending}
    assert len(labels) == 1


# What is wrong


def bad_calls(pcam_example: bytes) -> dict[str, tuple[str, list[InferInput], dict[str, object], str]]:
    pixels = pixels_of(pcam_example)
    good = file_input(pcam_example)
    return {
        "unknown model": ("no-model", good, {}, "404"),
        "unknown version": (MODEL, good, {"model_version": "9.9"}, "404"),
        "unknown output": (MODEL, good, {"outputs": [InferRequestedOutput("scores")]}, "400"),
        "two inputs": (MODEL, good * 2, {}, "400"),
        "other datatype": (MODEL, array_input(pixels.astype(np.int32), "INT32"), {}, "400"),
        "channels first": (MODEL, array_input(pixels.transpose(0, 3, 1, 2).copy(), "UINT8"), {}, "400"),
        "not normalized": (MODEL, array_input(pixels.astype(np.float32), "FP32"), {}, "400"),
        "normalized otherwise": (MODEL, array_input(normalize(pixels) * np.float32(0.9), "FP32"), {}, "400"),
        "no picture": (MODEL, file_input(b"hello"), {}, "415"),
        "cut picture": (MODEL, file_input(pcam_example[:1000]), {}, "422"),
        "empty file": (MODEL, file_input(b""), {}, "400"),
        "65 files": (MODEL, file_input(*[pcam_example] * 65), {}, "400"),
        "text in JSON": (MODEL, array_input(np.array([["x"]], dtype=np.object_), "BYTES", binary=False), {}, "400"),
    }


@pytest.mark.parametrize(
    "name",
    [
        "unknown model",
        "unknown version",
        "unknown output",
        "two inputs",
        "other datatype",
        "channels first",
        "not normalized",
        "normalized otherwise",
        "no picture",
        "cut picture",
        "empty file",
        "65 files",
        "text in JSON",
    ],
)
def test_client_reads_every_refusal_and_its_next_call_is_answered(
    triton: InferenceServerClient, name: str, pcam_example: bytes
) -> None:
    model, inputs, more, status = bad_calls(pcam_example)[name]
    with pytest.raises(InferenceServerException) as caught:
        triton.infer(model, inputs, **more)
    assert caught.value.status() == status
    assert "while decoding the response" not in caught.value.message()
    assert triton.infer(MODEL, file_input(pcam_example)).as_numpy("label").shape == (1,)


@pytest.mark.parametrize("path", ["/v2", "/v2/models/no-model", INFER, f"/v1/models/{MODEL}", "/v2/repository/index"])
def test_wrong_password_answers_401_in_the_protocols_shape(server: LiveServer, path: str) -> None:
    for method in ("GET", "POST"):
        answer = requests.request(method, server.inference + path, auth=(USER, "wrong"), timeout=30)
        if answer.status_code == 405:  # the path takes the other one
            continue
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")
        assert answer.json() == {"error": "A user name and password are needed, and must be right."}


@pytest.mark.parametrize(
    "method, path, status",
    [
        ("GET", INFER, 405),
        ("POST", "/v2", 405),
        ("GET", "/v2/nothing", 404),
        ("GET", "/v2/models", 404),
        ("POST", "/v1/models/no-model:predict", 404),
        ("GET", "/v1/models/no-model", 404),
    ],
)
def test_wrong_address_or_method_answers_in_the_protocols_shape(
    server: LiveServer, method: str, path: str, status: int
) -> None:
    answer = requests.request(method, server.inference + path, auth=AUTH, timeout=30)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]


def test_body_over_the_limit_answers_413_and_the_next_request_is_answered(
    server: LiveServer, triton: InferenceServerClient, pcam_example: bytes
) -> None:
    answer = requests.post(server.inference + INFER, data=bytes(32 * 2**20 + 1), auth=AUTH, timeout=30)
    assert (answer.status_code, list(answer.json())) == (413, ["error"])
    assert triton.infer(MODEL, file_input(pcam_example)).as_numpy("label").shape == (1,)


# KServe v1


def test_kserve_v1_answers_a_list_also_for_one(server: LiveServer, pcam_example: bytes) -> None:
    url = f"{server.inference}/v1/models/{MODEL}"
    assert requests.get(url, auth=AUTH, timeout=10).json() == {"name": MODEL, "ready": True}
    instance = {"data": base64.b64encode(pcam_example).decode()}
    expected = expect(server, MODEL, pcam_example)
    for count in (1, 2):
        answer = requests.post(url + ":predict", json={"instances": [instance] * count}, auth=AUTH, timeout=30)
        predictions = answer.json()["predictions"]
        assert len(predictions) == count
        assert all(each["class"] == expected["class"] for each in predictions)


def test_kserve_v1_fails_as_a_whole_and_says_for_which_picture(server: LiveServer, pcam_example: bytes) -> None:
    url = f"{server.inference}/v1/models/{MODEL}:predict"
    texts = [base64.b64encode(body).decode() for body in (pcam_example, b"no picture")]
    answer = requests.post(url, json={"instances": [{"data": text} for text in texts]}, auth=AUTH, timeout=30)
    assert (answer.status_code, list(answer.json())) == (415, ["error"])
    assert answer.json()["error"].startswith("Picture 2 of 2: ")
    for body, status in (
        ({"instances": []}, 400),
        ({"instances": [{"data": "%"}]}, 400),
        ({"instances": [1] * 65}, 400),
    ):
        answer = requests.post(url, json=body, auth=AUTH, timeout=30)
        assert (answer.status_code, list(answer.json())) == (status, ["error"])


# As for every prediction: ports, counts, the log, and what happens under overload


def test_predictions_are_served_at_their_own_port_alone(server: LiveServer) -> None:
    for base, path, expected in (
        (server.inference, "/v2/models/" + MODEL, 200),
        (server.management, "/v2/models/" + MODEL, 200),
        (server.management, "/v1/models/" + MODEL, 200),
        (server.metrics, "/v2/models/" + MODEL, 404),
        (server.metrics, "/v2/health/live", 404),
    ):
        assert requests.get(base + path, auth=AUTH, timeout=10).status_code == expected, base + path
    assert requests.post(server.management + INFER, auth=AUTH, timeout=10).status_code == 404


def test_predictions_are_counted_and_logged_as_others_are(
    server: LiveServer, triton: InferenceServerClient, pcam_example: bytes
) -> None:
    def count() -> float:
        text = requests.get(server.metrics + "/metrics", timeout=10).text
        lines = [line for line in text.splitlines() if line.startswith("scancer_predictions_total") and MODEL in line]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    before = count()
    triton.infer(MODEL, file_input(pcam_example, pcam_example), headers={"X-Request-ID": "open-inference-0001"})
    assert count() == before + 2
    records = [json.loads(line) for line in server.log.read_text().splitlines()]
    record = next(record for record in records if record.get("request_id") == "open-inference-0001")
    assert (record["model"], record["version"], record["outcome"], record["images"]) == (MODEL, "1.0", "several", 2)
    assert record["rule"] == "/v2/models/<model_name>/infer"


def test_overload_is_refused_in_the_protocols_shape(server: LiveServer, pcam_example: bytes) -> None:
    log = server.log.with_name("overload")
    limits = {"SCANCER_WORKERS": "1", "SCANCER_QUEUE_SIZE": "1", "SCANCER_THREADS": "16"}
    live = LiveServer(server.instance, log, limits).start()
    body = json.dumps({"instances": [{"data": base64.b64encode(pcam_example).decode()}] * 64})
    answers: list[requests.Response] = []
    ends = time.monotonic() + 20

    def ask() -> None:
        while time.monotonic() < ends and not any(answer.status_code == 503 for answer in answers):
            url = f"{live.inference}/v1/models/{MODEL}:predict"
            answers.append(requests.post(url, data=body, auth=AUTH, timeout=30))

    threads = [threading.Thread(target=ask) for _ in range(24)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        refused = [answer for answer in answers if answer.status_code != 200]
        assert {answer.status_code for answer in refused} == {503}
        assert all(list(answer.json()) == ["error"] for answer in refused)
        assert all(answer.headers["Retry-After"] for answer in refused)
        text = requests.get(live.metrics + "/metrics", timeout=10).text
        assert 'scancer_refused_total{reason="overload"}' in text
    finally:
        live.stop()
