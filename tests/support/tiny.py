"""The smallest settings of the main job, and of classifiers."""

# A classifier of a second in all: what is tested is around the training.
TINY_CLASSES = [
    "data.train=100",
    "data.train_limit=100",
    "data.test_limit=32",
    "training.batch_size=16",
    "training.picture_every=99",
    "training.threads=1",  # two wait for each other where others work
]
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
