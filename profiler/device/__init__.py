"""What an accelerator does while the loop runs: its time, its memory, its sensors."""
