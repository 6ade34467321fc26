"""One suite over all engines: the same pictures, the same answers."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openvino
import pytest

from app.arrays import InputBatch
from app.compiling.folder_compiler import compile_model
from app.config.setting_types import PROJECT_ROOT
from app.config.settings import Settings
from app.engines.base import ENGINES, Engine, build_engine
from app.engines.compiled import openvino_engine
from app.engines.process_engine import ProcessEngine
from app.manifest.model_manifest import ModelManifest, read_manifest
from app.pipeline.postprocess import to_probabilities
from tests.engines.programs import PROGRAMS, write_folder

PCAM = PROJECT_ROOT / "models/pcam-classification/1.0"
ISIC = PROJECT_ROOT / "models/isic-classification/1.0"
CASES: list[tuple[str, str | Path]] = [("openvino", PCAM), ("openvino", ISIC), ("torch", PCAM), ("keras", ISIC)]
CASES += [("process", PCAM), ("openvino", "ONNX for one picture")]
CASES += [(framework, name) for name, (framework, _) in PROGRAMS.items()]
TOLERANCE = 1e-4

# TensorFlow's and Keras' own imports warn of what their dependencies will drop.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_every_engine_is_in_the_suite() -> None:
    assert {name for name, _ in CASES} >= set(ENGINES)


def call(case: tuple[str, str | Path]) -> str:
    name, source = case
    return f"{name}-{source.parent.name if isinstance(source, Path) else source}"


@pytest.fixture(scope="module", params=CASES, ids=call)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Engine, ModelManifest, Path]]:
    name, source = request.param
    folder = source
    if isinstance(source, str):
        folder = write_folder(tmp_path_factory.mktemp("models"), *PROGRAMS[source])
        compile_model(folder)
    manifest = read_manifest(folder)
    engine: Engine
    if name == "process":
        engine = ProcessEngine(folder, manifest, Settings())
    else:
        engine = build_engine(name, folder, manifest, 1)
    engine.load()
    yield engine, manifest, folder
    engine.close()
    engine.close()  # closing twice does no harm


def random_batch(manifest: ModelManifest, count: int, seed: int = 7) -> InputBatch:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, manifest.input.height_px, manifest.input.width_px, 3), dtype=np.uint8)


def test_scores_are_float32_one_row_a_picture(case: tuple[Engine, ModelManifest, Path]) -> None:
    engine, manifest, _ = case
    scores = engine.infer(random_batch(manifest, 3))
    assert scores.dtype == np.float32
    assert scores.shape == (3, manifest.output.outputs)


def test_batches_of_any_size_in_any_order_give_each_picture_its_own_row(
    case: tuple[Engine, ModelManifest, Path],
) -> None:
    engine, manifest, _ = case
    batch = random_batch(manifest, 5)
    whole = engine.infer(batch)
    parts = [engine.infer(np.ascontiguousarray(batch[rows])) for rows in (slice(0, 1), slice(1, 4), slice(4, 5))]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-4)
    np.testing.assert_allclose(engine.infer(np.ascontiguousarray(batch[::-1])), whole[::-1], atol=1e-4)


def test_returned_scores_are_not_changed_by_the_next_call(case: tuple[Engine, ModelManifest, Path]) -> None:
    engine, manifest, _ = case
    scores = engine.infer(random_batch(manifest, 1, seed=1))
    kept = scores.copy()
    engine.infer(random_batch(manifest, 1, seed=2))
    np.testing.assert_array_equal(scores, kept)


def test_the_batch_is_left_as_it_was_and_may_be_read_only(case: tuple[Engine, ModelManifest, Path]) -> None:
    engine, manifest, _ = case
    batch = random_batch(manifest, 2)
    batch.setflags(write=False)
    kept = batch.copy()
    engine.infer(batch)
    np.testing.assert_array_equal(batch, kept)


def test_engine_agrees_with_the_compiled_model(case: tuple[Engine, ModelManifest, Path]) -> None:
    engine, manifest, folder = case
    compiled = build_engine("openvino", folder, manifest, 1)
    compiled.load()
    batch = random_batch(manifest, 8)
    ours, theirs = (to_probabilities(each.infer(batch), manifest.output) for each in (compiled, engine))
    compiled.close()
    assert np.abs(ours - theirs).max() <= TOLERANCE


@pytest.mark.parametrize(("slow_s", "threads"), [(0.0, 2), (60.0, 1)])
def test_slow_model_gets_all_cores_and_answers_the_same(
    monkeypatch: pytest.MonkeyPatch, slow_s: float, threads: int
) -> None:
    monkeypatch.setattr(openvino_engine, "SLOW_S", slow_s)
    monkeypatch.setattr(openvino_engine, "count_cores", lambda: 2)
    manifest = read_manifest(PCAM)
    batch = random_batch(manifest, 1)
    compiled_with: list[int] = []
    compile_model = openvino_engine.OpenVINOEngine._compile

    def note(engine: openvino_engine.OpenVINOEngine, model: openvino.Model, threads: int) -> None:
        compiled_with.append(threads)
        compile_model(engine, model, threads)

    monkeypatch.setattr(openvino_engine.OpenVINOEngine, "_compile", note)
    chosen, given = build_engine("openvino", PCAM, manifest, 0), build_engine("openvino", PCAM, manifest, 1)
    chosen.load()
    assert compiled_with[-1] == threads
    given.load()
    assert compiled_with[-1] == 1
    np.testing.assert_allclose(chosen.infer(batch), given.infer(batch), atol=TOLERANCE)
    chosen.close()
    given.close()
