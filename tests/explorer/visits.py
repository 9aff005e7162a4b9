"""Where the explorer's views are visited."""

# Addresses by the path of the view, whose names of parts do not matter. UPLOAD stands for the
# name of a picture that was brought.
UPLOAD = "UPLOAD"
VISITS: dict[str, tuple[str, ...]] = {
    "/": ("/",),
    "/s/{store}": ("/s/world", "/s/folder"),
}
