"""What a person looks at: sections of the page, figures, pictures of neurons."""
