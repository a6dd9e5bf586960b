"""Which cells of models x datasets x seeds to run, running them, and keeping what they gave."""
