"""What every other folder stands on: errors, checks, randomness, files and the protocols between parts."""
