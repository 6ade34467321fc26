"""What LitServe runs: `python litserve_server.py PORT BATCH_SIZE DELAY_S`."""

import base64
import sys
from pathlib import Path

import litserve
import torch
from eager_model import EagerModel


class EagerAPI(litserve.LitAPI):
    """The steps that LitServe calls; the default ones make a batch of the decoded pictures and take it apart again."""

    def setup(self, device):  # noqa: ARG002 LitServe passes it
        """Load the weights."""
        self.model = EagerModel(Path(__file__).parent)

    def decode_request(self, request):
        """Decode one request."""
        return self.model.decode(base64.b64decode(request["image"]))

    def batch(self, inputs):
        """Make a batch."""
        return torch.stack(inputs)

    def predict(self, x):
        """Run the network."""
        return self.model.infer(x)

    def unbatch(self, output):
        """Take the batch apart."""
        return output

    def encode_response(self, output):
        """Answer what the network said."""
        return output


if __name__ == "__main__":
    port, batch_size, delay_s = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    api = EagerAPI(max_batch_size=batch_size, batch_timeout=delay_s)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=2, fast_queue=True)
    server.run(host="127.0.0.1", port=port, generate_client_file=False)
