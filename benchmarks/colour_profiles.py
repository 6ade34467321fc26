"""Scores of pictures that carry a colour profile: `python -m benchmarks.colour_profiles --data FOLDER`.

FOLDER holds `pcam.tar`, `isic.tar` and their manifests. Pictures of the main test sets are saved in the colours of
Adobe RGB and of Display P3, as cameras and phones do. Each is decoded with its profile and without, and the scores are
compared with those of the picture in sRGB.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from app.config.setting_types import PROJECT_ROOT
from app.engines.base import Engine, build_engine
from app.manifest.model_manifest import ModelManifest
from app.pipeline.decoding.decode import decode
from app.pipeline.decoding.limits import ImageLimits
from app.pipeline.postprocess import to_probabilities
from app.pipeline.preprocess import preprocess
from app.repository.model_folder import ModelFolder
from benchmarks import icc_profiles as icc
from benchmarks.auc_over_http import read_pictures
from benchmarks.scale import choose, make_parser
from training.evaluation import estimate_auc

LIMITS = ImageLimits(max_pixels=25_000_000)
EVERY = 4
"""One picture of so many is measured."""
SPACES = {
    "Adobe RGB": icc.rgb_profile(icc.ADOBE_RGB, icc.gamma_curve(icc.ADOBE_GAMMA)),
    "Display P3": icc.rgb_profile(icc.DISPLAY_P3, icc.srgb_curve()),
}


def save_in(space: bytes, picture: Image.Image) -> bytes:
    """Save a picture of sRGB in other colours, as a PNG with their profile."""
    target = ImageCms.ImageCmsProfile(io.BytesIO(space))
    transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), target, "RGB", "RGB")
    converted = ImageCms.applyTransform(picture, transform)
    assert converted is not None
    file = io.BytesIO()
    converted.save(file, "PNG", icc_profile=space)
    return file.getvalue()


def score(body: bytes, manifest: ModelManifest, engine: Engine, follows_metadata: bool) -> float:
    """Return the probability of the positive class."""
    pixels = preprocess(decode(body, LIMITS, follows_metadata=follows_metadata).pixels, manifest.input)
    probabilities = to_probabilities(engine.infer(pixels[np.newaxis]), manifest.output)
    return float(probabilities[0, manifest.output.classes.index(str(manifest.output.positive_class))])


def measure(name: str, data: Path) -> None:
    """Print a line for each space, with its profile and without."""
    folder = ModelFolder(PROJECT_ROOT / f"models/{name}-classification/1.1")
    manifest = folder.read_manifest()
    engine = build_engine("openvino", folder.path, manifest, 1)
    engine.load()
    pictures = list(read_pictures(data, name))[:: choose(EVERY, 1)]
    labels = np.array([label for label, _ in pictures])
    plain = np.array([score(body, manifest, engine, True) for _, body in pictures])
    print(f"{name}-classification, {len(pictures)} pictures in sRGB: AUC {estimate_auc(labels, plain).value:.4f}")
    for space, profile in SPACES.items():
        bodies = [save_in(profile, decode(body, LIMITS).pixels) for _, body in pictures]
        for way, follows in (("ignored", False), ("converted", True)):
            scores = np.array([score(body, manifest, engine, follows) for body in bodies])
            moved, limit = np.abs(scores - plain), manifest.output.threshold or 0.5
            changed = np.count_nonzero((scores >= limit) != (plain >= limit))
            print(
                f"  {space} {way}: AUC {estimate_auc(labels, scores).value:.4f}; the probability moved by "
                f"{moved.mean():.4f} on average, {moved.max():.4f} at most; {changed} decisions changed"
            )
    engine.close()


def main() -> None:
    """Measure both models."""
    parser = make_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    for name in ("pcam", "isic"):
        measure(name, data)


if __name__ == "__main__":
    main()
