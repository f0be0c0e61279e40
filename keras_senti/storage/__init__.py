"""Files that are whole or absent: the run folder, locks, the record of the environment."""
