"""A trained model as files, and back."""
