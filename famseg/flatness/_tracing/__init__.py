"""Observation of a forward pass: penalized layers, their operators, samples, and the loss."""
