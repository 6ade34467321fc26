"""The `ts` package for handlers: what TorchServe's handlers import and rely on."""

import importlib
import io
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.engines.pytorch.torchvision_operators import declare_operators
from app.handlers.worker.handler_loading import TS_PACKAGE

pytestmark = pytest.mark.slow

NAMES = {
    "ts": ["__version__"],
    "ts.context": ["Context", "RequestProcessor"],
    "ts.torch_handler.base_handler": ["BaseHandler"],
    "ts.torch_handler.vision_handler": ["VisionHandler"],
    "ts.torch_handler.image_classifier": ["ImageClassifier"],
    "ts.torch_handler.image_segmenter": ["ImageSegmenter"],
    "ts.torch_handler.object_detector": ["ObjectDetector"],
    "ts.torch_handler.text_handler": ["TextHandler", "BaseHandler"],
    "ts.utils.util": [
        "map_class_to_label",
        "list_classes_from_module",
        "load_label_mapping",
        "PredictionException",
        "check_valid_pt2_backend",
    ],
    "ts.handler_utils.timer": ["timed"],
    "ts.handler_utils.micro_batching": ["MicroBatching"],
    "ts.handler_utils.utils": ["send_intermediate_predict_response"],
    "ts.protocol.otf_message_handler": ["send_intermediate_predict_response"],
    "ts.metrics.dimension": ["Dimension"],
    "ts.metrics.metric_type_enum": ["MetricTypes"],
    "ts.metrics.metrics_store": ["MetricsStore"],
}


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TS_PACKAGE))
    declare_operators()


def make_context(folder: Path, **model: str) -> Any:
    context = importlib.import_module("ts.context")
    return context.Context("m", str(folder), {"model": model}, 1, None, "0.12.0")


@pytest.mark.parametrize("module", NAMES)
def test_names_that_handlers_import_are_there(module: str) -> None:
    loaded = importlib.import_module(module)
    assert [name for name in NAMES[module] if not hasattr(loaded, name)] == []


def test_handlers_of_other_frameworks_need_no_torch() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(TS_PACKAGE)!r}); import ts.context, ts.utils.util; "
        "import ts.handler_utils.timer, ts.metrics.metrics_store; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_torchvision_imports_in_a_handler_once_its_schemas_are_declared() -> None:
    code = (
        "import sys; from app.handlers.worker.handler_loading import TorchvisionFinder; "
        "sys.meta_path.insert(0, TorchvisionFinder); "
        "from torchvision import transforms; print(transforms.Resize(8))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Resize(size=8")


def test_labels_are_the_last_of_a_list_or_the_name_itself(tmp_path: Path) -> None:
    util = importlib.import_module("ts.utils.util")
    file = tmp_path / "index_to_name.json"
    file.write_text(json.dumps({"0": ["n01", "tabby"], "1": "lynx"}))
    mapping = util.load_label_mapping(str(file))
    assert mapping == {"0": "tabby", "1": "lynx"}
    assert util.map_class_to_label([[0.7, 0.2]], mapping, [[1, 0]]) == [{"lynx": 0.7, "tabby": 0.2}]
    assert util.map_class_to_label([[0.7, 0.2]]) == [{"0": 0.7, "1": 0.2}]
    file.write_text(json.dumps({"object_type_names": ["a", "b"]}))
    assert util.load_label_mapping(str(file)) == {"0": "a", "1": "b"}
    assert util.load_label_mapping(str(tmp_path / "absent.json")) is None


def test_classes_of_a_module_are_those_that_it_defines() -> None:
    util = importlib.import_module("ts.utils.util")
    module = ModuleType("made")
    exec("from pathlib import Path\nclass Own:\n    pass\n", module.__dict__)
    assert [each.__name__ for each in util.list_classes_from_module(module)] == ["Own"]


def test_handler_without_super_init_has_what_a_base_handler_has(tmp_path: Path) -> None:
    base = importlib.import_module("ts.torch_handler.base_handler")

    class Bare(base.BaseHandler):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.own = 1

        def initialize(self, context: Any) -> None:
            self.context = context

        def preprocess(self, data: Any) -> Any:
            return data

        def inference(self, data: Any) -> Any:
            return data

        def postprocess(self, data: Any) -> list[Any]:
            return [len(row["body"]) for row in data]

    handler = Bare()
    context = make_context(tmp_path)
    handler.initialize(context)
    assert (handler.initialized, handler.model, handler.mapping) == (False, None, None)
    assert handler.handle([{"body": b"abc"}], context) == [3]
    assert any(metric.name == "HandlerTime" for metric in context.metrics.cache.values())


def test_classifier_answers_no_more_classes_than_the_model_has() -> None:
    import torch

    handler = importlib.import_module("ts.torch_handler.image_classifier").ImageClassifier()
    [answer] = handler.postprocess(torch.tensor([[0.0, 2.0, 1.0]]))
    assert list(answer) == ["1", "2", "0"]
    assert sum(answer.values()) == pytest.approx(1)
    handler.set_max_result_classes(1)
    assert list(handler.postprocess(torch.tensor([[0.0, 2.0, 1.0]]))[0]) == ["1"]


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16"])
def test_pictures_of_any_mode_become_three_channels(mode: str) -> None:
    handler = importlib.import_module("ts.torch_handler.image_classifier").ImageClassifier()
    grey = Image.new("L", (300, 280), 128)
    picture = Image.fromarray(np.full((280, 300), 128 * 257, np.uint16)) if mode == "I;16" else grey.convert(mode)
    buffer = io.BytesIO()
    picture.save(buffer, "TIFF" if mode == "CMYK" else "PNG")
    tensor = handler.preprocess([{"data": bytearray(buffer.getvalue())}])
    assert tensor.shape == (1, 3, 224, 224)
    level = {"1": 1.0}.get(mode, 128 / 255)  # dithered: only its range is known
    if mode != "1":
        assert float(tensor[0, 0].mean() * 0.229 + 0.485) == pytest.approx(level, abs=0.01)


@pytest.mark.parametrize("base", ["image_classifier.ImageClassifier", "vision_handler.VisionHandler"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16"])
def test_own_processing_gets_a_picture_in_the_mode_of_its_file(base: str, mode: str) -> None:
    import torch

    seen = []

    def process(image: Image.Image) -> Any:
        seen.append((image.mode, image.size))
        return torch.zeros(1, 28, 28)

    module, name = base.split(".")
    parent = getattr(importlib.import_module(f"ts.torch_handler.{module}"), name)
    handler = type("Own", (parent,), {"image_processing": staticmethod(process)})()
    pixels = np.zeros((20, 30), np.uint16 if mode == "I;16" else np.uint8)
    buffer = io.BytesIO()
    (Image.fromarray(pixels) if mode == "I;16" else Image.fromarray(pixels).convert(mode)).save(buffer, "PNG")
    assert handler.preprocess([{"body": bytearray(buffer.getvalue())}]).shape == (1, 1, 28, 28)
    assert seen == [(mode, (30, 20))]


def test_detector_names_the_boxes_it_is_sure_of(tmp_path: Path) -> None:
    import torch

    handler = importlib.import_module("ts.torch_handler.object_detector").ObjectDetector()
    handler.mapping = {"1": "person"}
    found = {
        "boxes": torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]]),
        "labels": torch.tensor([1, 2]),
        "scores": torch.tensor([0.75, 0.25]),
    }
    assert handler.postprocess([found]) == [[{"person": [1, 2, 3, 4], "score": 0.75}]]


def test_whole_pickled_module_is_not_loaded(tmp_path: Path) -> None:
    import pickle

    import torch

    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    (tmp_path / "model.py").write_text(
        "import torch\nclass M(torch.nn.Linear):\n    def __init__(self):\n        super().__init__(2, 2)\n"
    )
    handler = importlib.import_module("ts.torch_handler.base_handler").BaseHandler()
    with pytest.raises(pickle.UnpicklingError):
        handler.initialize(make_context(tmp_path, serializedFile="whole.pth", modelFile="model.py"))


def test_weights_without_a_model_file_are_told_as_torchserve_does(tmp_path: Path) -> None:
    handler = importlib.import_module("ts.torch_handler.base_handler").BaseHandler()
    with pytest.raises(RuntimeError, match="No model weights could be loaded"):
        handler.initialize(make_context(tmp_path, serializedFile="weights.pth"))


def test_metrics_add_up_have_torchserves_labels_and_are_bounded() -> None:
    store = importlib.import_module("ts.metrics.metrics_store").MetricsStore({0: "id"}, "m")
    dimension = importlib.import_module("ts.metrics.dimension").Dimension
    kinds = importlib.import_module("ts.metrics.metric_type_enum").MetricTypes
    for _ in range(2):
        store.add_counter("Seen", 2)
        store.add_time("Took", 5.5, unit="s", dimensions=[dimension("Step", "a")])
        store.add_metric("Sizes", 0.3, "MB", metric_type=kinds.HISTOGRAM)
    store.add_error("Bad", 1)
    own = store.add_metric_to_cache("Own", "count", ["Colour"])
    own.add_or_update(3, ["red"])
    model = (("ModelName", "Level"), ("m", "Model"))
    assert store.take() == [
        (("Seen", "counter", "count", *model), [4.0]),
        (("Took", "gauge", "s", ("Step", *model[0]), ("a", *model[1])), [5.5]),
        (("Sizes", "histogram", "MB", *model), [0.3, 0.3]),
        (("Bad", "counter", "", ("Level",), ("Error",)), [1.0]),
        (("Own", "counter", "count", ("Colour",), ("red",)), [3.0]),
    ]
    assert store.take() == []
    for index in range(2000):
        store.add_counter("Seen", 1, dimensions=[dimension("Id", str(index))])
    assert len(store.take()) == 1000
    with pytest.raises(KeyError):
        store.get_metric("Nothing")


def test_micro_batching_keeps_the_order(tmp_path: Path) -> None:
    class Steps:
        context: Any = None

        def preprocess(self, data: Any) -> Any:
            assert len(data) <= 2
            return data

        inference = preprocess

        def postprocess(self, data: Any) -> list[Any]:
            return [value * 10 for value in data]

    micro = importlib.import_module("ts.handler_utils.micro_batching").MicroBatching(Steps(), 2)
    assert micro([1, 2, 3], make_context(tmp_path)) == [10, 20, 30]
