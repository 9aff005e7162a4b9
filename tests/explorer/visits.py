"""Where the explorer's views are visited: an address or more for each."""

# By the route's path in the application; with what makes a view say most, and what it must say.
VISITS: dict[str, tuple[str, ...]] = {
    "/": ("/",),
    "/s/{store}": ("/s/world", "/s/folder"),
}
