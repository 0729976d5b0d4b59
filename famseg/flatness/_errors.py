"""Errors that users can cause; every message states where and what is wrong, and what to do."""

from __future__ import annotations


class FlatnessError(ValueError):
    """Base class of all errors raised by `famseg.flatness`."""


class LayerNotFoundError(FlatnessError):
    """No module of the model has the given name."""


class LayerError(FlatnessError):
    """The named layer exists, but its flatness cannot be computed as asked."""


class LossError(FlatnessError):
    """The loss does not return what the penalty needs: one scalar that depends on the layer."""


class NotApplicableError(FlatnessError):
    """The chosen estimator does not hold for this model, layer and loss."""


class SampleInteractionError(NotApplicableError):
    """The estimator needs samples that do not influence each other's loss, and these do."""


class UnsupportedTailError(FlatnessError):
    """An operation after the layer has derivatives that torch computes wrongly or not at all."""
