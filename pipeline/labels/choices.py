"""What may be chosen of labels, by name; light, as it is read before any work."""

# Texts of a head that a judge is shown, of those that TextSpan picks for it; so many of a property
# count, too.
FIRST = 5
# Of these, how many fit where a head counts as about its label.
ENOUGH = 3
# What says which property texts are about: a list of properties, a server of the OpenAI protocol,
# a model on this machine.
JUDGES = {"lexicon": "", "openai": "MODEL", "transformers": "PATH"}
