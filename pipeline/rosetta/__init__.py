"""Units shared between models (*Rosetta Neurons*, ICCV 2023)."""
