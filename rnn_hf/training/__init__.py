"""Training with carried state: arguments, optimisation, the loop, checkpoints and what a run leaves behind."""
