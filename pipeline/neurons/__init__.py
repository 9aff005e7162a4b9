"""Neurons: second-order effects over a store, and their sparse text codes."""
