"""Passes over all images: one at a time, so that what is quick does not wait behind them all."""

from __future__ import annotations

import threading

# Held while all rows of something are read or compared, and nothing is waited for meanwhile: who
# waits for a value that another thread makes under it would wait for ever.
PASS = threading.Lock()
