"""Units shared between models (Dravid et al. 2023)."""
