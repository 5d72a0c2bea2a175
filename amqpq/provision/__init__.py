"""Changes to a live broker: decided by pure functions, carried out step by step, with a journal."""
