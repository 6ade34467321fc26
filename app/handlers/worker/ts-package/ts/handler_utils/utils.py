"""Another place that handlers import `send_intermediate_predict_response` from; the name is TorchServe's."""

from ts.protocol.otf_message_handler import send_intermediate_predict_response

__all__ = ["send_intermediate_predict_response"]
