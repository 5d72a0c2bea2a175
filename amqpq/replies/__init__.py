"""Results: where they wait, how they are fetched, and how a caller's reply is matched."""
