"""How the embedded world's models were made and judged; nobody who only uses them loads this."""
