"""Records on disk, the texts they hold, and batches for training."""
