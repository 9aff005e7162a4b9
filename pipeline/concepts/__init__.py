"""What is in a picture, in words: by the neurons that fire on it, by heads, by its embedding."""
