"""A model taken apart over a set of images: the pass, the shards, the plan, growth."""
