"""What may be chosen of adversarial images, by name; light, as it is read before any work."""

from __future__ import annotations

from typing import Literal

# Where cues come from: neurons whose second-order effects point from the drawn class to the target;
# as many random ones; neurons by their indirect effects; the texts most like the difference of the
# classes; no cues at all, to know what the model gets wrong in any case; a file.
Source = Literal["second-order", "random", "indirect", "similar", "none", "given"]
