"""The recipe of `models/isic-classification`: `python -m training.isic --data FOLDER`.

Fine-tuned in PyTorch, which is faster on a CPU, then ported layer by layer to Keras and checked against it.
"""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from torch import nn

from app.engines.pytorch.torch_architectures import EfficientNetLite
from training.arguments import read_arguments
from training.augmentation import Augmentation
from training.averaging import average_networks
from training.balance import Balance
from training.checkpoint import make_or_load
from training.distillation import Distillation, distil
from training.fine_tuning import CLASSES, Recipe, fine_tune
from training.labelled_links import Part
from training.model_folder import ModelFacts, Parts, write_model_folder

RECIPE = Recipe(
    architecture="efficientnet_lite0",
    sets=("isic224",),
    stages=((128, 4), (176, 8)),
    batch_size=32,
    learning_rate=8e-4,
    balance=Balance(positive_share=1 / 3, origin_power=0.75, most_draws=4),
    diagnoses=("nv", "bkl", "df", "vasc", "mel", "bcc", "akiec"),
    augmentation=Augmentation(zoom=1.3, aspect=1.33, any_angle=True, brightness=0.12, colour=0.08, jpeg=0.3, blur=0.2),
)
SHARE_OF_EARLIER = 0.35
"""Of version 1.0 in the weights, by the validation split: its AUC is 0.918 without it, and 0.927 with 0.3 to 0.4."""
DISTILLATION = Distillation(
    architecture=RECIPE.architecture,
    sets=RECIPE.sets,
    stages=((176, 2),),
    batch_size=RECIPE.batch_size,
    learning_rate=3e-4,
    balance=RECIPE.balance,
    label_smoothing=0.0,
    augmentation=RECIPE.augmentation,
    teacher_sizes=(176,),
    views=3,
)
"""By the validation split: the AUC is 0.9267 before and 0.9281 after; the mean over eight orientations has 0.9303."""
ORIGINS = ("HAM10000", "ISIC2018-test", "ISIC2017", "ISIC2020", "ISIC-other")


def test_part(origin: str) -> Part:
    """Return the test pictures of one origin."""
    return Part(f"{origin}, test split", ("isic224",), ("test",), lambda row: row["origin"] == origin)


PARTS = Parts(
    train=Part("ISIC, training split", ("isic224",), ("train",)),
    val=Part("ISIC, validation split", ("isic224",), ("val",)),
    other=Part("PatchCamelyon, training part", ("pcam", "pcam_more"), ("train",)),
    int8=Part("ISIC, validation and test splits", ("isic224",), ("val", "test")),
    tests=(
        *map(test_part, ORIGINS),
        Part("the test split of version 1.0, 200x150 pixels", ("isic",), ("test",)),
    ),
    examples=Part("examples", ("isic224",), ("test",), lambda row: row["origin"] == "ISIC2017"),
    examples_source="ISIC archive, ISIC 2017",
    report=Part("ISIC, test split", ("isic224",), ("test",)),
    columns=("origin", "dx"),
)

CARD = """
# isic-classification 1.1

Research use only. Not for diagnosis.

Says whether a dermoscopic photo shows a malignant or a benign skin lesion.

## Model

EfficientNet-Lite0 (Tan and Le 2019, arXiv:1905.11946; ImageNet weights Apache-2.0), fine-tuned by `training/isic.py`,
averaged with version 1.0, weight by weight (0.35 of 1.0; Wortsman et al. 2022, arXiv:2203.05482), and taught to answer
at once what its average over turned and mirrored photos answers (Beyer et al. 2022, arXiv:2106.05237). It is kept as a
Keras 3 model. Input: the whole photo, RGB, squeezed to 176x176.

Against 1.0: five sources instead of two, more pixels, more epochs, draws balanced by source and class, and a second
output in training that learns the diagnosis and is thrown away.

## Data

Dermoscopic photos of the ISIC archive, most of them at 224 pixels: 10,224 for training, 1,312 for validation, from
HAM10000 (Tschandl, Rosendahl and Kittler 2018, doi:10.1038/sdata.2018.161), ISIC 2017, the test set of ISIC 2018, ISIC
2020 and a nine-class set. No lesion is in two splits. Malignant means melanoma, basal cell carcinoma, squamous cell
carcinoma and actinic keratosis (which is pre-malignant or in situ, and the arguable one); benign means nevus, benign
keratosis, dermatofibroma, vascular lesion, and lesions without a diagnosis of the benign part of ISIC 2020.

## Figures

{figures}

## Limits

- Mostly light skin, from a few clinics; expect worse elsewhere. No subgroup figures: the data carry none for skin
  tone, age or sex in the form used here.
- Patients are mostly unknown: one may be in two splits.
- The share of malignant photos differs by source, from 9 % to 60 %. The rows of the table tell how far the model leans
  on the source. Its probabilities are calibrated on all sources together, and are off by more on each alone.
- Photos without a dermatoscope were not studied. Rulers, hair and ink can move the score.

## Examples

Four photos of the ISIC archive (ISIC 2017, CC0): two that the model gets right, and two that it gets wrong.
`examples/expected.json` says which is which, and where each comes from. Its probabilities are those of the
network, before they are calibrated.

## Licence

CC-BY-NC-4.0: not for commercial use, as HAM10000. Cite HAM10000 when you use this model.
"""


def average_with_earlier(trained: nn.Module, models: Path, data: Path) -> nn.Module:
    """Average the trained network with version 1.0, whose weights Keras has to read."""
    from training.keras_port import port_from_keras

    file = models / "isic-classification/1.0/model.keras"
    earlier = port_from_keras(file, EfficientNetLite(1.0, 1.0, CLASSES))
    return average_networks(trained, earlier, SHARE_OF_EARLIER, RECIPE, data)


def main() -> None:
    """Train, average, distil, port to Keras, calibrate, measure, and write the model folder."""
    arguments = read_arguments(__doc__)
    data, work = arguments.data, arguments.work
    trained = make_or_load(RECIPE, work / "isic-trained.safetensors", partial(fine_tune, RECIPE, data))

    def average(_: Path) -> nn.Module:
        # In a process of its own: TensorFlow and PyTorch in one process share the cores badly while training.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            return pool.submit(average_with_earlier, trained, arguments.models, data).result()

    teacher = make_or_load(RECIPE, work / "isic-averaged.safetensors", average)
    network = make_or_load(
        RECIPE, work / "isic-distilled.safetensors", lambda checkpoint: distil(DISTILLATION, data, checkpoint, teacher)
    )
    facts = ModelFacts(
        name="isic-classification",
        version="1.1",
        title="Malignant or benign skin lesions",
        description="Whether a dermoscopic photo shows a malignant or a benign skin lesion.",
        framework="keras",
        artifact="model.keras",
        architecture=None,
        size_px=RECIPE.size_px,
        um_per_px=None,
        classes=("benign", "malignant"),
        sensitivity=0.9,
        licence="CC-BY-NC-4.0",
        card=CARD,
    )

    from training.keras_port import port_to_keras  # last, as above

    assert isinstance(network, EfficientNetLite), "the recipe names one"
    model = port_to_keras(network, RECIPE.size_px)
    write_model_folder(data, work, arguments.models, facts, PARTS, model.save)


if __name__ == "__main__":
    main()
