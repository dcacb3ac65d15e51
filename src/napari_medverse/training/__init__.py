"""Training: synthetic anatomies, in-context tasks, losses and the training loop."""
