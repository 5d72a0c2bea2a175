"""Who may say what: keys, signatures and the memory against replays. Knows bytes and key ids, no message format."""
