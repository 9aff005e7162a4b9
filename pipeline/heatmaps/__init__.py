"""Where in a picture a class or a text comes from: heat maps of many methods, held to masks."""
