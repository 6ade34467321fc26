"""The recipe of `models/pcam-classification`: `python -m training.pcam --data FOLDER`."""

from collections.abc import Mapping

import numpy as np

from training.augmentation import Augmentation
from training.checkpoint import train_or_load, write_weights
from training.command import read_arguments
from training.drawing import draw_patch
from training.evaluation import evaluate, threshold_at_youden
from training.fine_tuning import Recipe, score
from training.image_folder import read_split
from training.model_folder import Figures, ModelFacts, write_model_folder

NAME = "pcam"
RECIPE = Recipe(
    architecture="efficientnet_lite0",
    size_px=96,
    epochs=5,
    batch_size=64,
    learning_rate=2e-3,
    augmentation=Augmentation(brightness=0.06, colour=0.04, jpeg=0.1, blur=0.1),
)
UM_PER_PX = 0.972  # Camelyon16 level 2: 0.243 um at level 0, times 4 (Veeling et al. 2018)

CARD = """
# pcam-classification 1.0

Research use only. Not for diagnosis.

Says whether the centre 32x32 pixels of a 96x96 H&E-stained lymph-node patch hold metastatic tissue.

## Model

EfficientNet-Lite0 (Tan and Le 2019, arXiv:1905.11946; ImageNet weights Apache-2.0), fine-tuned in PyTorch by
`training/pcam.py`, float32. Input: 96x96 RGB at about 0.97 micrometres a pixel (10x). A picture of another size is
squeezed to 96x96, which changes its magnification: cut patches at the right scale instead.

## Data

A part of PatchCamelyon (Veeling et al. 2018, doi:10.1007/978-3-030-00934-2_24; CC0), cut from the slides of Camelyon16
(Ehteshami Bejnordi et al. 2017, doi:10.1001/jama.2017.14585): 15,200 patches for training, 2,000 for validation, half
of each positive. Training, validation and test slides are different ones. Most files had been compressed as JPEG again.

## Figures

{figures}

## Limits

- Two hospitals in one country, one staining; expect worse elsewhere. No subgroup figures: the data carry none.
- Tumour outside the centre counts as normal here. Isolated tumour cells and other cancers were not studied.
- Half of the test patches are positive. Where fewer are, a positive answer is right less often: at 2 % of patches,
  most positive answers are wrong even at these figures.
- The probabilities are not calibrated.
- The row of PNG files tests the file format, not new slides: they come from slides of the training part.

## Examples

The pictures in `examples/` are drawn by `training/drawing.py`. They are synthetic: no tissue, no patient. They show
that a service answers and that the answer stays the same; what the model says of them has no meaning.

## Licence

Weights: CC0-1.0, as the data.
"""


def main() -> None:
    """Train, measure, and write the model folder."""
    arguments = read_arguments(__doc__)
    network = train_or_load(RECIPE, arguments.data, NAME, arguments.work / f"{NAME}.safetensors")
    val, test = (read_split(arguments.data, NAME, split, RECIPE.size_px) for split in ("val", "test"))
    threshold = round(threshold_at_youden(val.labels, score(network, val.images)), 4)
    official = test.select(np.array(["_patch" in file for file in test.files]))
    pngs = test.select(np.array([file.endswith(".png") for file in test.files]))
    metrics, png_metrics = (evaluate(part.labels, score(network, part.images), threshold) for part in (official, pngs))
    others: Mapping[str, dict] = {"200 uncompressed PNG patches from slides of the training part": png_metrics}
    facts = ModelFacts(
        name="pcam-classification",
        version="1.0",
        title="Metastatic tissue in lymph-node patches",
        description="Whether the centre 32x32 pixels of a 96x96 H&E lymph-node patch hold metastatic tissue.",
        framework="torch",
        artifact="model.safetensors",
        architecture=RECIPE.architecture,
        size_px=RECIPE.size_px,
        um_per_px=UM_PER_PX,
        classes=("normal", "metastatic"),
        licence="CC0-1.0",
        card=CARD,
    )
    source = "largest sensitivity + specificity on the validation split"
    figures = Figures(threshold, source, "PatchCamelyon's own test part, JPEG", metrics, others)
    examples = {
        "synthetic-normal.png": draw_patch(1, tumour=False),
        "synthetic-metastatic.png": draw_patch(2, tumour=True),
        "synthetic-metastatic-2.jpg": draw_patch(3, tumour=True),
    }
    write_model_folder(arguments.models, facts, figures, lambda path: write_weights(network, path), examples)


if __name__ == "__main__":
    main()
