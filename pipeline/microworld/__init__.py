"""The embedded world: pictures whose truth is known, and small models trained on them."""
