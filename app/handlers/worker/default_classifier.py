"""Archives whose handler is TorchServe's default `image_classifier`: what it does is known, so it can be compiled."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from app.handlers.handler_archive import HandlerArchive
from app.handlers.worker.handler_loading import find_class, import_handler, make_context, prepare_path

DEFAULT_HANDLER = "image_classifier"
CLASSES_ANSWERED = 5


def find_obstacle(archive: HandlerArchive) -> str:
    """Say why an archive must be answered by its own handler; empty if it need not."""
    model, path = archive.manifest["model"], archive.path
    if (archive.module, archive.function) != (DEFAULT_HANDLER, "handle"):
        return f"its handler is not {DEFAULT_HANDLER}"
    if (path / f"{DEFAULT_HANDLER}.py").exists() or (path / DEFAULT_HANDLER).exists():
        return f"it brings an {DEFAULT_HANDLER} of its own"
    if archive.has_envelope:
        return f"requests come in the envelope {archive.envelope}"
    if not model.get("serializedFile"):
        return "it has no weights"
    if not model.get("modelFile") and not str(model["serializedFile"]).endswith(".pt"):
        return "its weights are neither TorchScript nor those of a model file"
    if not archive.limits.min_workers:
        return "it has no workers"
    return ""


class DefaultClassifier:
    """The default handler with an archive's model, run eagerly: the reference.

    Only a confined process makes one, since it runs the archive's program and raises whatever that raises. `network` is
    the loaded `torch.nn.Module`, in evaluation mode; `framework` names what runs it, with the version.
    """

    def __init__(self, archive: HandlerArchive) -> None:
        prepare_path(archive.path)
        self._handler: Any = find_class(import_handler(archive))()
        self._handler.initialize(make_context(archive))
        self.network: Any = self._handler.model
        self.framework = f"torch {version('torch')}"

    def infer(self, pictures: Sequence[bytes]) -> Any:
        """Return what the model makes of picture files, as `postprocess` gets it: scores, if all is well."""
        return self._handler.inference(self._handler.preprocess([{"body": each} for each in pictures]))

    def name_classes(self, count: int) -> list[str]:
        """The labels of so many classes: of `index_to_name.json`, or the index where that has none."""
        names = self._handler.mapping or {}
        return [names.get(str(index), str(index)) for index in range(count)]
