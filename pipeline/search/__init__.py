"""The index by head, and which images lie nearest to a query in some heads."""
