"""The explorer's server: a page and a JSON document for every view."""
