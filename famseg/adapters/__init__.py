"""Relative flatness in other trainers, with one module per framework, which it imports.

- `famseg.adapters.monai`: ``FAMStep``, the ``iteration_update`` of MONAI's ``SupervisedTrainer``.
- `famseg.adapters.lightning`: ``FAMModule`` and ``FAMMixin`` for Lightning's ``Trainer``.
- `famseg.adapters.transformers`: ``FAMTrainer``, the ``Trainer`` of Hugging Face's transformers.

Your own training loop does not need them, see `famseg.flatness`. In addition to
`famseg.flatness.FAM`, they handle what a loop must otherwise take care of: the optimizer step of
each forward pass, so that accumulated and resumed steps are penalized like uninterrupted ones;
different probes on each process; and the objective instead of the network inside
``DistributedDataParallel``.
"""
