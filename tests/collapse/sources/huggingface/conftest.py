"""The folders of `tests/huggingface`."""

from tests.huggingface.conftest import folder, text, whole

__all__ = ["folder", "text", "whole"]
