"""Finds the entry point of an archive's handler, by TorchServe's rules."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from app.handlers.handler_archive import HandlerArchive

TS_PACKAGE = Path(__file__).resolve().parent / "ts-package"
HandleFunction = Callable[[list[dict[str, Any]], Any], Any]


class TorchvisionFinder:
    """Prepares the first import of torchvision, by whomever, for a CPU build of PyTorch."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        """Find nothing; called before the finders that do."""
        if name == "torchvision":
            from app.engines.pytorch.torchvision_operators import declare_operators

            declare_operators()


def prepare_path(folder: Path) -> None:
    """Put the archive's folder and `ts` on the path in place of ours: an archive may have its own `app` or `tests`."""
    sys.path[:] = [str(folder), str(TS_PACKAGE), *sys.path[1:]]
    sys.meta_path.insert(0, TorchvisionFinder)


def make_context(archive: HandlerArchive) -> Any:
    """Make what handlers are told of their model, before any request; call `prepare_path` first."""
    from ts import __version__
    from ts.context import Context

    folder, batch_size, gpu = str(archive.path), archive.limits.batch_size, None
    context = Context(archive.name, folder, dict(archive.manifest), batch_size, gpu, __version__)
    context.model_yaml_config = dict(archive.config)
    return context


def load_handler(archive: HandlerArchive, context: Any) -> HandleFunction:
    """Import the handler, have it load its model, and return what answers a batch.

    A function of the named module is the entry point; it is called once without data, so that it can load its model.
    Else it is the method `handle` of the one class that the module defines. Raises whatever the handler raises.
    """
    module = import_handler(archive)
    entry: HandleFunction | None = getattr(module, archive.function, None)
    if entry is None:
        service = find_class(module)()
        service.initialize(context)
        entry = service.handle
    else:
        entry(None, context)  # type: ignore[arg-type]  # TorchServe's way to say "load"
    return entry


def import_handler(archive: HandlerArchive) -> ModuleType:
    """Import the archive's own module, or the default handler of that name."""
    is_own = importlib.util.find_spec(archive.module) is not None
    return importlib.import_module(archive.module if is_own else f"ts.torch_handler.{archive.module}")


def find_class(module: ModuleType) -> type[Any]:
    """Return the class that a module defines as its handler; raises `ValueError` if it defines none, or several."""
    from ts.utils.util import list_classes_from_module

    able = [
        each for each in list_classes_from_module(module) if hasattr(each, "initialize") and hasattr(each, "handle")
    ]
    if len(able) != 1:
        raise ValueError(
            f"Expected only one class in custom service code or a function entry point, found {len(able)} classes "
            "with initialize and handle"
        )
    return able[0]
