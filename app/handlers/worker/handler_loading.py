"""Finds the entry point of an archive's handler, by TorchServe's rules."""

import importlib
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from app.handlers.handler_archive import HandlerArchive

TS_PACKAGE = Path(__file__).resolve().parent / "ts-package"
STOCK = "ts.torch_handler."
HandleFunction = Callable[[list[dict[str, Any]], Any], Any]


class TorchvisionFinder:
    """Prepares the first import of torchvision, by whomever, for a CPU build of PyTorch."""

    @classmethod
    def find_spec(
        cls,
        name: str,
        path: Sequence[str] | None = None,  # noqa: ARG003  # Python's signature
        target: ModuleType | None = None,  # noqa: ARG003  # as above
    ) -> importlib.machinery.ModuleSpec | None:
        """Find nothing; called before the finders that do."""
        if name == "torchvision":
            from app.engines.pytorch.torchvision_operators import declare_operators

            declare_operators()
        return None


def prepare_path(folder: Path) -> None:
    """Make the archive's own modules and the `ts` package importable, the archive's first.

    This project's folder leaves the path: `tests` or `models` in an archive are the archive's.
    """
    sys.path[:] = [str(folder), str(TS_PACKAGE), *sys.path[1:]]
    sys.meta_path.insert(0, TorchvisionFinder)


def make_context(archive: HandlerArchive) -> Any:
    """Make what handlers are told of their model, before any request; call `prepare_path` first."""
    from ts import __version__
    from ts.context import Context

    return Context(
        archive.name,
        str(archive.path),
        dict(archive.manifest),
        archive.limits.batch_size,
        None,
        __version__,
        model_yaml_config=dict(archive.config),
    )


def load_handler(archive: HandlerArchive, context: Any) -> HandleFunction:
    """Import the handler, have it load its model, and return what answers a batch.

    A function of the named module is the entry point; it is called once without data, so that it can load its model.
    Else it is the method `handle` of the one class that the module defines.

    Raises:
        Exception: whatever the handler raises.
    """
    module = import_handler(archive)
    entry: HandleFunction | None = getattr(module, archive.function, None)
    if entry is not None:
        entry(None, context)  # type: ignore[arg-type]  # TorchServe's way to say "load"
        return entry
    service = find_class(module)()
    service.initialize(context)
    handle: HandleFunction = service.handle
    return handle


def import_handler(archive: HandlerArchive) -> ModuleType:
    """Import the archive's own module, or the default handler of that name."""
    try:
        return importlib.import_module(archive.module)
    except ModuleNotFoundError as error:
        # Another module that is missing is the handler's own trouble, and is told as such.
        if error.name != archive.module:
            raise
    return importlib.import_module(STOCK + archive.module)


def find_class(module: ModuleType) -> type[Any]:
    """Return the class that a module defines as its handler.

    Raises:
        ValueError: it defines none, or several.
    """
    from ts.utils.util import list_classes_from_module

    classes = list_classes_from_module(module)
    able = [each for each in classes if hasattr(each, "initialize") and hasattr(each, "handle")]
    if len(able) != 1:
        raise ValueError(
            f"Expected only one class in custom service code or a function entry point, found {len(able)} classes "
            "with initialize and handle"
        )
    return able[0]
