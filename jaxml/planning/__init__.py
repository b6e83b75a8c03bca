"""Plans a training step for an accelerator that need not be there, from what its compiler says: `jaxml plan`."""
