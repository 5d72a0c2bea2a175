"""Where tasks run: `processes` (prefork), `threads`, and `threads` again on the main thread (solo)."""
