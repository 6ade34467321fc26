"""What later turned out of one answer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """An answer, and the true class of its picture.

    Attributes:
        request_id, position: what stands for the request and its user, see `app.watch.kept_answers.mark_owner`, and the
            picture's place in it.
        name, version: of the model.
        network: what tells its network and classes from others, `ModelManifest.network_digest` in hexadecimal.
        class_name: the class that was answered.
        score: the probability of the positive class, as answered; None for more than two classes.
        truth: the true class.
    """

    request_id: str
    position: int
    name: str
    version: str
    network: str
    class_name: str
    score: float | None
    truth: str
