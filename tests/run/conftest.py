"""Trainers of the tiny recipe, as the tests of training have them."""

from tests.train.conftest import trainer

__all__ = ["trainer"]
