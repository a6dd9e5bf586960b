"""How fast is the program itself, and how much memory does it take? Measured by commands, never asserted in a test."""
