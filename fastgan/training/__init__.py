"""Training: the trainer, what fit reports and saves, and how it is stopped."""
