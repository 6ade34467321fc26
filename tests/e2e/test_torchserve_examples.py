"""What teams bring from TorchServe: archives that its own archiver made, registered by URL with a real server."""

import functools
import http.server
import io
import json
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from app.users import UsersFile
from tests.conftest import MANAGER, MANAGER_PASSWORD, LiveServer
from tests.handlers.archives import make_archive

AUTH = (MANAGER, MANAGER_PASSWORD)
DENSENET_MODEL = """
from torchvision.models.densenet import DenseNet


class ImageClassifier(DenseNet):
    def __init__(self):
        super().__init__(8, (1, 2, 2, 1), 16)

    def load_state_dict(self, state_dict, strict=True):
        # Weights from before torchvision 0.3 have a point in the names of these layers.
        renamed = {}
        for name, values in state_dict.items():
            for layer in ("norm1", "conv2"):
                name = name.replace(f".{layer[:-1]}.{layer[-1]}.", f".{layer}.")
            renamed[name] = values
        return super().load_state_dict(renamed, strict)
"""
BINARY_HANDLER = """
import torch
from torchvision import transforms
from ts.torch_handler.image_classifier import ImageClassifier


class CancerClassifier(ImageClassifier):
    image_processing = transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()])

    def postprocess(self, data):
        data = torch.argmax(data, dim=1)
        return [data.item()]
"""
GREY_HANDLER = """
from torchvision import transforms
from ts.torch_handler.image_classifier import ImageClassifier


class DigitClassifier(ImageClassifier):
    image_processing = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])

    def postprocess(self, data):
        return data.argmax(1).tolist()
"""


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A web server of archives: its URL, and the folder that it serves."""
    folder = tmp_path_factory.mktemp("archives")
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files, and says nothing of it."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, archives: tuple[str, Path]) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("torchserve")
    for name in ("models", "instance"):
        (folder / name).mkdir()
    UsersFile(folder / "instance").add(MANAGER, "manage", MANAGER_PASSWORD)
    settings = {
        "SCANCER_MODELS": str(folder / "models"),
        "SCANCER_PROGRAMS": "all",
        "SCANCER_WORKERS": "2",
        "SCANCER_ALLOWED_URLS": archives[0].replace(".", r"\.") + "/.*",
        "SCANCER_PRIVATE_HOSTS": "127.0.0.1",
    }
    server = LiveServer(folder / "instance", folder / "log", settings).start()
    yield server
    server.stop()


def publish(archives: tuple[str, Path], name: str, *arguments: Any, **options: str) -> str:
    """Have an archive made where the web server finds it; return its URL."""
    url, folder = archives
    make_archive(folder / "unpacked", name, *arguments, **options)
    (folder / f"source-{name}" / f"{name}.mar").rename(folder / f"{name}.mar")
    return f"{url}/{name}.mar"


def register(live: LiveServer, url: str) -> requests.Response:
    parameters = {"url": url, "initial_workers": "1", "synchronous": "true"}
    return requests.post(f"{live.management}/models", params=parameters, auth=AUTH, timeout=300)


def make_picture(mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((300, 260)).convert("RGB").convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.long
def test_densenet_answers_five_classes_by_the_compiled_road(archives: tuple[str, Path], live: LiveServer) -> None:
    """The program of TorchServe's densenet_161 example, with fewer layers."""
    import torch

    from app.engines.pytorch.torch_architectures import import_torchvision

    torch.manual_seed(0)
    network = import_torchvision().models.DenseNet(8, (1, 2, 2, 1), 16)
    torch.nn.init.normal_(network.classifier.weight)  # so that classes lie apart
    weights = io.BytesIO()
    state = network.state_dict()
    old_names = [name.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2.") for name in state]
    torch.save(dict(zip(old_names, state.values(), strict=True)), weights)
    labels = {str(index): [f"n{index:08}", "tabby" if index == 281 else f"class {index}"] for index in range(1000)}
    files = {
        "model.py": DENSENET_MODEL,
        "weights.pth": weights.getvalue(),
        "index_to_name.json": json.dumps(labels),
    }
    # Stored, not compressed: random weights cost seconds, and do not shrink.
    named = {"model_file": "model.py", "serialized_file": "weights.pth", "archive_format": "zip-store"}
    answer = register(live, publish(archives, "densenet", "image_classifier", files, **named))
    assert answer.json() == {"status": 'Model "densenet" Version: 1.0 registered with 1 initial workers'}
    described = requests.get(f"{live.inference}/models/densenet", auth=AUTH, timeout=10).json()
    assert (described["engine"], described["not_compiled"]) == ("openvino", None)
    network.eval()
    expected = expect_classes(network, make_picture("RGB"), labels)
    for mode in ("RGB", "RGBA", "L", "P"):
        response = requests.put(
            f"{live.inference}/predictions/densenet", data=make_picture(mode), auth=AUTH, timeout=60
        )
        assert (response.status_code, "Content-Type" in response.headers) == (200, False)
        assert len(response.json()) == 5
        assert list(response.json().values()) == sorted(response.json().values(), reverse=True)
        if mode != "P":  # a palette is another picture
            assert response.json() == pytest.approx(expected, abs=1e-4)


def expect_classes(network: Any, picture: bytes, labels: dict[str, list[str]]) -> dict[str, float]:
    """What torchvision itself says, by the published preprocessing."""
    import torch
    from torchvision import transforms

    image = transforms.ToTensor()(transforms.CenterCrop(224)(transforms.Resize(256)(Image.open(io.BytesIO(picture)))))
    normal = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])(image)
    with torch.inference_mode():
        probabilities = torch.softmax(network(normal[None]), 1)[0]
    values, indices = torch.topk(probabilities, 5)
    return {labels[str(index)][-1]: value for index, value in zip(indices.tolist(), values.tolist(), strict=True)}


def test_torchscript_with_a_handler_that_overrides_answers_0_or_1(archives: tuple[str, Path], live: LiveServer) -> None:
    import torch

    class Brightness(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            bright = x.mean(dim=[1, 2, 3])
            return torch.stack([1 - bright, bright], 1)

    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of TorchScript, as a whole
        torch.jit.save(torch.jit.trace(Brightness(), torch.zeros(1, 3, 32, 32)), file)
    files: dict[str, str | bytes] = {"cancer_handler.py": BINARY_HANDLER, "scripted.pt": file.getvalue()}
    url = publish(archives, "cancer", "cancer_handler.py", files, serialized_file="scripted.pt")
    assert register(live, url).status_code == 200
    for colour, expected in (("white", "1"), ("black", "0")):
        buffer = io.BytesIO()
        Image.new("RGB", (50, 40), colour).save(buffer, "PNG")
        address = f"{live.inference}/predictions/cancer"
        for body in ({"data": buffer.getvalue()}, {"files": {"data": ("x.png", buffer.getvalue())}}):
            response = requests.post(address, auth=AUTH, timeout=60, **body)  # type: ignore[arg-type]
            assert (response.status_code, response.text) == (200, expected)


def test_network_for_grey_pictures_gets_them_grey(archives: tuple[str, Path], live: LiveServer) -> None:
    import torch

    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 28), torch.nn.Flatten())
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # as above
        torch.jit.save(torch.jit.trace(network, torch.zeros(1, 1, 28, 28)), file)
    files: dict[str, str | bytes] = {"digits.py": GREY_HANDLER, "network.pt": file.getvalue()}
    url = publish(archives, "digits", "digits.py", files, serialized_file="network.pt")
    assert register(live, url).status_code == 200
    address = f"{live.inference}/predictions/digits"
    for mode, status in (("L", 200), ("RGB", 503)):  # three channels are none of its network's, as in TorchServe
        buffer = io.BytesIO()
        Image.new(mode, (28, 28)).save(buffer, "PNG")
        response = requests.post(address, auth=AUTH, files={"data": ("0.png", buffer.getvalue())}, timeout=60)
        assert response.status_code == status
    assert register(live, url).status_code == 409


def test_url_that_no_pattern_names_is_not_fetched(live: LiveServer) -> None:
    answer = register(live, "https://models.example/densenet161.mar")
    assert (answer.status_code, answer.json()["type"]) == (404, "ModelNotFoundException")
