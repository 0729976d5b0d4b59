"""The smallest settings of the main job."""

# A training of a second an epoch: small skulls, a small network, the penalty at every step.
TINY = [
    "data.subjects=8",
    "data.size=16",
    "data.spacing_mm=14",
    "model.channels=[4,4]",
    "model.strides=[2,2]",
    "model.latent=2",
    "penalty.every=1",
]
