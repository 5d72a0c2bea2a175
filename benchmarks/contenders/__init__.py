"""One module per contender; each is imported only in the processes that run it."""
