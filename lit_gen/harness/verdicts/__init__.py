"""What records say: statistics, verdicts, learning curves, deviations."""
