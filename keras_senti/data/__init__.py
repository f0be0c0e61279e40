"""From a file to batches of token ids."""
