"""The recipe of `models/isic-classification`: `python -m training.isic --data FOLDER`.

Fine-tuned in PyTorch, which is faster on a CPU, then ported layer by layer to Keras and checked against it.
"""

import numpy as np

from training.augmentation import Augmentation
from training.checkpoint import train_or_load
from training.command import read_arguments
from training.drawing import draw_lesion
from training.evaluation import evaluate, threshold_at_sensitivity
from training.fine_tuning import Recipe, score
from training.image_folder import read_manifest, read_split
from training.model_folder import Figures, ModelFacts, write_model_folder

NAME = "isic"
RECIPE = Recipe(
    architecture="efficientnet_lite0",
    size_px=144,
    epochs=6,
    batch_size=32,
    learning_rate=6e-4,
    positive_draws=2,
    augmentation=Augmentation(zoom=1.25, any_angle=True, brightness=0.1, colour=0.06, jpeg=0.2, blur=0.2),
)
SENSITIVITY = 0.9

CARD = """
# isic-classification 1.0

Research use only. Not for diagnosis.

Says whether a dermoscopic photo shows a malignant or a benign skin lesion.

## Model

EfficientNet-Lite0 (Tan and Le 2019, arXiv:1905.11946; ImageNet weights Apache-2.0), fine-tuned by `training/isic.py`
and kept as a Keras 3 model, float32. Input: the whole photo, RGB, squeezed to 144x144.

## Data

Dermoscopic photos of the ISIC archive, mostly HAM10000 (Tschandl, Rosendahl and Kittler 2018,
doi:10.1038/sdata.2018.161), 200x150 pixels: 7,745 for training, 962 for validation. No lesion is in two splits.
Malignant means melanoma, basal cell carcinoma, squamous cell carcinoma and actinic keratosis (which is pre-malignant
or in situ, and the arguable one); benign means nevus, benign keratosis, dermatofibroma and vascular lesion. In
training, malignant photos were drawn twice as often.

## Figures

{figures}

## Limits

- Low-resolution photos, mostly of light skin, from two clinics; expect worse elsewhere. No subgroup figures: the data
  carry none for skin tone, age or sex in the form used here.
- Patients are unknown: one may be in two splits.
- The ISIC photos from outside HAM10000 are 60 % malignant where HAM10000 is 17 %: the row that covers them alone tells
  how far the model leans on the source.
- Photos without a dermatoscope were not studied. Rulers, hair and ink can move the score.
- The probabilities are not calibrated, and malignant photos were drawn twice: they run high.

## Examples

The pictures in `examples/` are drawn by `training/drawing.py`. They are synthetic: no skin, no patient. They show
that a service answers and that the answer stays the same; what the model says of them has no meaning.

## Licence

CC-BY-NC-4.0: not for commercial use, as HAM10000. Cite HAM10000 when you use this model.
"""


def main() -> None:
    """Train, measure, port to Keras, and write the model folder."""
    arguments = read_arguments(__doc__)
    network = train_or_load(RECIPE, arguments.data, NAME, arguments.work / f"{NAME}.safetensors")
    val, test = (read_split(arguments.data, NAME, split, RECIPE.size_px) for split in ("val", "test"))
    threshold = round(threshold_at_sensitivity(val.labels, score(network, val.images), SENSITIVITY), 4)
    rows = read_manifest(arguments.data, NAME)
    is_ham = np.array([rows[file]["origin"] == "HAM10000" for file in test.files])
    ham, other = (
        evaluate(part.labels, score(network, part.images), threshold)
        for part in (test.select(is_ham), test.select(~is_ham))
    )
    facts = ModelFacts(
        name="isic-classification",
        version="1.0",
        title="Malignant or benign skin lesions",
        description="Whether a dermoscopic photo shows a malignant or a benign skin lesion.",
        framework="keras",
        artifact="model.keras",
        architecture=None,
        size_px=RECIPE.size_px,
        um_per_px=None,
        classes=("benign", "malignant"),
        licence="CC-BY-NC-4.0",
        card=CARD,
    )
    source = f"sensitivity of {SENSITIVITY:.0%} on the validation split"
    figures = Figures(threshold, source, "HAM10000, test split", ham, {"ISIC outside HAM10000, test split": other})
    examples = {
        "synthetic-benign.jpg": draw_lesion(1, irregular=False),
        "synthetic-malignant.jpg": draw_lesion(2, irregular=True),
        "synthetic-malignant-2.png": draw_lesion(3, irregular=True, width_px=300, height_px=225),
    }

    # Imported last: TensorFlow and PyTorch in one process share the cores badly while training.
    from training.keras_port import port_to_keras

    model = port_to_keras(network, RECIPE.size_px)
    write_model_folder(arguments.models, facts, figures, model.save, examples)


if __name__ == "__main__":
    main()
