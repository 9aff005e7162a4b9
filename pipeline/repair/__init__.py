"""Edits that mend a spurious correlation: which heads, which gains, and what it brings."""
