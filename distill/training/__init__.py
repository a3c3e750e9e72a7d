"""Training: the model, the optimiser, the loop, and what a run leaves on disk."""
