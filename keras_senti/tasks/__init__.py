"""One file for each value of the setting `task`, and what they share."""
