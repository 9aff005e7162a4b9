"""Pictures that a model takes for what they do not show, made from what its neurons confuse."""
