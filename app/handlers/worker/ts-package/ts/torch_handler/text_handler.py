"""Handlers of text: the name, since handlers import `BaseHandler` from here too. No tokenizer comes with it."""

from abc import ABC

from ts.torch_handler.base_handler import BaseHandler

__all__ = ["BaseHandler", "TextHandler"]


class TextHandler(BaseHandler, ABC):
    """A handler of text; its steps are its own."""
