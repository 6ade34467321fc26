"""What a handler learns of its model and of the requests at hand, and where it says how to answer them."""

from collections.abc import Callable, Mapping
from typing import Any

from ts.metrics.metrics_store import MetricsStore

NO_PHRASE = ""


class RequestProcessor:
    """One request of the batch: its headers, and the status and headers of its answer."""

    def __init__(self, request_header: Mapping[str, Any]) -> None:
        self._request_header = dict(request_header)
        self._folded = {name.lower(): value for name, value in self._request_header.items()}
        self._status_code = 200
        self._reason_phrase: str | None = None
        self._response_header: dict[str, str] = {}

    def get_request_property(self, key: str) -> Any:
        """Return a header of the request, in whichever case it is asked for; None if there is none."""
        return self._folded.get(key.lower())

    def get_request_properties(self) -> dict[str, Any]:
        """Return all headers of the request."""
        return self._request_header

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        """Set the status of the answer."""
        self._status_code, self._reason_phrase = code, reason_phrase

    def get_response_status_code(self) -> int:
        """Return the status of the answer."""
        return self._status_code

    def get_response_status_phrase(self) -> str | None:
        """Return the words after the status of the answer."""
        return self._reason_phrase

    def add_response_property(self, key: str, value: str) -> None:
        """Set a header of the answer."""
        self._response_header[key] = value

    def get_response_headers(self) -> dict[str, str]:
        """Return the headers set so far."""
        return self._response_header

    def get_response_header(self, key: str) -> str | None:
        """Return a header set so far."""
        return self._response_header.get(key)


class Context:
    """The context of a handler; `idx` is a request's place in the batch."""

    def __init__(  # noqa: PLR0913, PLR0917  # TorchServe's parameters: handlers' tests build one by hand
        self,
        model_name: str,
        model_dir: str,
        manifest: dict[str, Any],
        batch_size: int,
        gpu: int | None,
        mms_version: str,
        limit_max_image_pixels: bool = True,
        metrics: MetricsStore | None = None,
        model_yaml_config: dict[str, Any] | None = None,
    ) -> None:
        self.model_name = model_name
        self.manifest = manifest
        self._system_properties = {
            "model_dir": model_dir,
            "gpu_id": gpu,
            "batch_size": batch_size,
            "server_name": "MMS",
            "server_version": mms_version,
            "limit_max_image_pixels": limit_max_image_pixels,
        }
        self.request_ids: dict[int, str] | None = None
        self.request_processor: list[RequestProcessor] = [RequestProcessor({})]
        self.metrics = metrics or MetricsStore({}, model_name)
        self.model_yaml_config = {} if model_yaml_config is None else model_yaml_config
        self.send_parts: Callable[[Mapping[int, tuple[str, Any]]], None] = lambda parts: None  # noqa: ARG005  # for nobody

    @property
    def system_properties(self) -> dict[str, Any]:
        """Where the model lies, and on what it runs."""
        return self._system_properties

    def set_response_content_type(self, idx: int, value: str) -> None:
        """Set the content type of an answer."""
        self.set_response_header(idx, "content-type", value)

    def get_response_content_type(self, idx: int) -> str | None:
        """Return the content type of an answer, if one was set."""
        return self.get_response_headers(idx).get("content-type")

    def get_request_id(self, idx: int = 0) -> str | None:
        """Return the id of a request."""
        return self.request_ids.get(idx) if self.request_ids else None

    def get_request_header(self, idx: int, key: str) -> Any:
        """Return a header of a request; None if there is none."""
        return self.request_processor[idx].get_request_property(key)

    def get_all_request_header(self, idx: int) -> dict[str, Any]:
        """Return all headers of a request."""
        return self.request_processor[idx].get_request_properties()

    def get_sequence_id(self, idx: int) -> str:
        """Return the id of the sequence that a request belongs to, which is never any here."""
        return str(self.get_request_header(idx, "ts_request_sequence_id") or "")

    def set_response_status(self, code: int = 200, phrase: str = NO_PHRASE, idx: int = 0) -> None:
        """Set the status of an answer."""
        self.request_processor[idx].report_status(code, phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = NO_PHRASE) -> None:
        """Set the status of every answer of the batch."""
        for processor in self.request_processor:
            processor.report_status(code, phrase)

    def get_response_status(self, idx: int) -> tuple[int, str | None]:
        """Return status and words of an answer."""
        processor = self.request_processor[idx]
        return processor.get_response_status_code(), processor.get_response_status_phrase()

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """Set a header of an answer."""
        self.request_processor[idx].add_response_property(key, value)

    def get_response_headers(self, idx: int) -> dict[str, str]:
        """Return the headers of an answer that were set."""
        return self.request_processor[idx].get_response_headers()
