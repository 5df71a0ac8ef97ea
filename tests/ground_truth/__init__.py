"""Training loops with known bottlenecks: the ground truth that the advice is judged by."""
