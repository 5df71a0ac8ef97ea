"""Small real training programs, each with one known bottleneck and the switch that removes it."""
