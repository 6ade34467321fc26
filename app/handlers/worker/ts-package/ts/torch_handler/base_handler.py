"""The handler that others extend: loads a model, and answers in three steps."""

import importlib.util
import logging
import time
from abc import ABC
from pathlib import Path
from typing import Any

import torch

from app.errors import OutOfBoundsError
from app.manifest.bounds import CLASS_INDEX, read_whole
from ts.utils.util import PredictionException, list_classes_from_module, load_label_mapping

TRUE = "True"
BAD_REQUEST, UNAVAILABLE = 400, 503
logger = logging.getLogger(__name__)


class BaseHandler(ABC):  # noqa: B024  # TorchServe's is abstract without an abstract method
    """Loads the archive's model and answers batches: `preprocess`, `inference`, `postprocess`.

    What every instance has stands in the class: many handlers define an `__init__` that does not call this one's.
    """

    model: Any = None
    mapping: dict[str, str] | None = None
    device: torch.device | None = None
    initialized = False
    context: Any = None
    model_pt_path: str | None = None
    manifest: dict[str, Any] | None = None
    map_location: str | None = None
    explain = False
    target: Any = 0
    profiler_args: dict[str, Any] = {}  # noqa: RUF012  # replaced, never changed
    model_yaml_config: dict[str, Any] | None = None

    def initialize(self, context: Any) -> None:
        """Load the model that the manifest names, and its classes' names; raises `RuntimeError` if it cannot."""
        self.context, self.manifest = context, context.manifest
        self.model_yaml_config = context.model_yaml_config or {}
        folder, named = Path(context.system_properties["model_dir"]), context.manifest["model"]
        self.device = self.get_device()
        self.map_location = self.device.type
        if named.get("serializedFile"):
            self.model_pt_path = str(folder / named["serializedFile"])
        if named.get("modelFile"):
            self.model = self._load_pickled_model(str(folder), named["modelFile"], self.model_pt_path)
        elif self.model_pt_path and self.model_pt_path.endswith(".pt"):
            self.model = self._load_torchscript_model(self.model_pt_path)
        elif self.model_pt_path and self.model_pt_path.endswith(".onnx"):
            self.model = self._load_onnx_model(self.model_pt_path)
        else:
            raise RuntimeError("No model weights could be loaded")
        if isinstance(self.model, torch.nn.Module):
            self.model.to(self.device)
            self.model.eval()
        self.mapping = load_label_mapping(str(folder / "index_to_name.json"))
        self.initialized = True

    def get_device(self) -> torch.device:
        """Return the GPU of this worker, if it has one, else the CPU."""
        gpu = self.context.system_properties.get("gpu_id") if self.context else None
        return torch.device("cpu" if gpu is None or not torch.cuda.is_available() else f"cuda:{gpu}")

    def _load_torchscript_model(self, model_pt_path: str) -> Any:
        return torch.jit.load(model_pt_path, map_location=self.device or "cpu")  # type: ignore[no-untyped-call]  # torch ships no annotation

    def _load_onnx_model(self, model_path: str) -> Any:
        import onnxruntime  # only where an operator installed it

        return onnxruntime.InferenceSession(model_path, providers=["CPUExecutionProvider"])

    def _load_pickled_model(self, model_dir: str, model_file: str, model_pt_path: str | None) -> Any:
        """Fill the one class that the archive's model file defines with the weights."""
        path = Path(model_dir) / model_file
        if not path.is_file():
            raise FileNotFoundError(f"Missing the {model_file} file")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None, "a Python file has a loader"
        assert spec.loader is not None, "as above"
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        classes = list_classes_from_module(module)
        if len(classes) != 1:
            raise ValueError(f"Expected only one class as model definition. {[each.__name__ for each in classes]}")
        model = classes[0]()
        if model_pt_path:
            model.load_state_dict(torch.load(model_pt_path, map_location=self.map_location or "cpu", weights_only=True))
        return model

    def preprocess(self, data: Any) -> Any:
        """Turn the requests into what the model takes; here: into a tensor."""
        return torch.as_tensor(data, device=self.device)

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the model."""
        with torch.inference_mode():
            return self.model(data.to(self.device), *args, **kwargs)

    def postprocess(self, data: Any) -> list[Any]:
        """Turn what the model returns into a list of one item a request."""
        return list(data.tolist())

    def handle(self, data: Any, context: Any) -> list[Any]:
        """Answer a batch of requests."""
        started = time.perf_counter()
        self.context = context
        if self._is_describe():
            return [self.describe_handle()]
        ready = self.preprocess(data)
        is_explained = self._is_explain()
        answers = self.explain_handle(ready, data) if is_explained else self.postprocess(self.inference(ready))
        context.metrics.add_time("HandlerTime", round((time.perf_counter() - started) * 1000, 2))
        return answers

    def explain_handle(self, data_preprocess: Any, raw_data: Any) -> list[Any]:
        """Answer with explanations, a list of one item a request, which the handler's `get_insights` makes."""
        row = inputs = raw_data[0]
        if isinstance(row, dict):
            inputs = row.get("data") or row.get("body") or row
        asked = [each.get("target") for each in (row, inputs) if isinstance(each, dict)]
        target = next((target for target in asked if target is not None), 0)
        try:
            text = target.decode("latin-1") if isinstance(target, (bytes, bytearray)) else target
            self.target = read_whole("target", text, CLASS_INDEX)
        except OutOfBoundsError as error:
            raise PredictionException(error.message, BAD_REQUEST) from error
        explained: list[Any] = self.get_insights(data_preprocess, inputs, self.target)
        return explained

    def get_insights(self, tensor_data: Any, raw_data: Any, target: Any) -> Any:  # noqa: ARG002  # TorchServe's
        """Explain a prediction; a handler that can do so defines this."""
        raise PredictionException("The handler of this model explains nothing: it has no get_insights.", UNAVAILABLE)

    def describe_handle(self) -> Any:
        """Describe the model; a handler that can do so defines this."""
        return None

    def _is_explain(self) -> bool:
        self.explain = self.context is not None and self.context.get_request_header(0, "explain") == TRUE
        return self.explain

    def _is_describe(self) -> bool:
        return self.context is not None and self.context.get_request_header(0, "describe") == TRUE
