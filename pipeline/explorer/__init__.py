"""The explorer: stores and what was found of them, as views that have an address each."""
