"""What a manifest says of a network: what goes into it, how much at a time, and what its numbers mean."""

import math
from dataclasses import dataclass

from app.config.settings import DEFAULT_BATCH_SIZE


@dataclass(frozen=True)
class InputSpec:
    """What the network takes.

    Attributes:
        width_px, height_px: size every picture is brought to.
        resize: Pillow filter used for it, the one of the training; part of the model.
        mean, std: per channel, R G B, on the scale 0 to 255; the network sees (pixel - mean) / std.
        um_per_px: micrometres a pixel of the training pictures, where that has a meaning.
        jpeg_min_scale: a JPEG may be decoded at a half, a quarter or an eighth of its size, if that is still at least
            this many times the size above; None: never.
        short_side_px: the shorter side is brought to this length, and the size above is cut out of the middle; None:
            the whole picture is squeezed to it.
        is_turned: whether EXIF's orientation is applied.
    """

    width_px: int
    height_px: int
    resize: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    um_per_px: float | None
    jpeg_min_scale: float | None = None
    short_side_px: int | None = None
    is_turned: bool = True

    @property
    def jpeg_min_size(self) -> tuple[int, int] | None:
        """Width and height that a JPEG must have where it is not decoded at its full size; None: it always is."""
        if self.jpeg_min_scale is None:
            return None
        return math.ceil(self.width_px * self.jpeg_min_scale), math.ceil(self.height_px * self.jpeg_min_scale)


@dataclass(frozen=True)
class BatchSpec:
    """How pictures that come together are inferred together.

    Attributes:
        max_size: most pictures in a batch.
        max_delay_ms: how long a batch waits to be as large as the load of this moment makes it; a lone caller's never
            waits.
    """

    max_size: int = DEFAULT_BATCH_SIZE
    max_delay_ms: float = 5.0

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of batch that an engine sees, from large to small: every one up to 8, of larger ones a few.

        Fewer small ones would cost time: with only 1, 2, 4 and 8, eight connections took 13 % more of the processor.
        """
        large = {self.max_size, *range(8, self.max_size, 8)} - set(range(8))
        return (*sorted(large, reverse=True), *range(min(self.max_size, 7), 0, -1))


@dataclass(frozen=True)
class OutputSpec:
    """What the network's numbers mean.

    Attributes:
        classes: in output order.
        activation: `softmax` over one output a class, or `sigmoid` of a single output.
        scores: `logits`, to which the activation is applied, or `probabilities`, if the network ends in it.
        positive_class: the class the threshold decides for; None for models of more than two classes.
        threshold: smallest probability of the positive class that is called positive.
        threshold_source: where the operating point comes from.
        labels: of an archive's classes, by which its answers call them, two of them perhaps alike; None: of no archive.
    """

    classes: tuple[str, ...]
    activation: str
    positive_class: str | None
    threshold: float | None
    threshold_source: str | None
    scores: str = "logits"
    labels: tuple[str, ...] | None = None

    @property
    def outputs(self) -> int:
        """How many numbers the network returns for one picture."""
        return 1 if self.activation == "sigmoid" else len(self.classes)
