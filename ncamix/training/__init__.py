"""Training: model, loss, transitions between stages, and the loop over stages."""
