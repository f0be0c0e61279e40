"""Several runs, to tell better from luck."""
