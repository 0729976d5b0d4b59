"""Relative flatness in the trainers of others, a module for each; the framework is its import.

- `famseg.adapters.monai`: ``FAMStep``, the ``iteration_update`` of MONAI's ``SupervisedTrainer``.
- `famseg.adapters.lightning`: ``FAMModule`` and ``FAMMixin`` for Lightning's ``Trainer``.
- `famseg.adapters.transformers`: ``FAMTrainer``, the ``Trainer`` of Hugging Face's transformers.

A loop of one's own needs none of them, see `famseg.flatness`. What they add to
`famseg.flatness.FAM` is what a loop must otherwise think of: which optimizer step a forward pass
belongs to, so that accumulated and resumed steps are penalized as uninterrupted ones; other probes
on other processes; the objective, not the network, inside ``DistributedDataParallel``.
"""
