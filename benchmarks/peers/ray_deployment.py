"""What Ray Serve runs."""

from pathlib import Path

import torch
from eager_model import EagerModel
from ray import serve


@serve.deployment
class EagerDeployment:
    """A replica, which gathers batches of its own requests."""

    def __init__(self, batch_size: int, delay_s: float) -> None:
        self.model = EagerModel(Path(__file__).parent)
        self.infer.set_max_batch_size(batch_size)
        self.infer.set_batch_wait_timeout_s(delay_s)

    @serve.batch
    async def infer(self, pictures: list[bytes]) -> list[dict[str, float]]:
        """Answer a batch."""
        return self.model.infer(torch.stack([self.model.decode(picture) for picture in pictures]))

    async def __call__(self, request) -> dict[str, float]:
        """Answer one request."""
        return await self.infer(await request.body())


def build(arguments: dict[str, str]) -> serve.Application:
    """Build the application that the configuration names."""
    return EagerDeployment.bind(int(arguments["batch_size"]), float(arguments["delay_s"]))
