"""What can go wrong through no fault of the code, as exceptions whose message says what to do."""

import shlex

# In a command: what the reader knows better.
ELIDED = "…"


class FacetError(ValueError):
    """Something the user can mend; the message says what was wrong, where, and what to do."""


class StoreError(FacetError):
    """A store is missing, unfinished, damaged or not the one that was asked for."""


class StoreMismatch(StoreError):
    """A store exists and was made with another configuration."""


class StoreDtypeError(StoreError):
    """A value does not fit the store's dtype."""


class NotFinite(FacetError):
    """A number is NaN or infinite where none may be."""


def command(job: str, *words: object, **settings: object) -> str:
    """A command that a message tells the user to type: ``facet JOB --name value``, for a shell.

    Parameters
    ----------
    job : str
    *words
        What stands without a name.
    **settings
        By the job's own names. None is left out, several values are a tuple.
    """
    line = [job, *map(str, words)]
    for name, value in settings.items():
        option = f"--{name.replace('_', '-')}"
        match value:
            case None | ():
                continue
            case tuple():
                line += [option, *map(str, value)]
            case _ if str(value).startswith("-"):  # it would be taken for the next name
                line.append(f"{option}={value}")
            case _:
                line += [option, str(value)]
    return " ".join(["facet", *(word if word == ELIDED else shlex.quote(word) for word in line)])
