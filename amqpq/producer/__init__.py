"""Publishing: from a call to a confirmed message.

What a call becomes (`options`, `planning`), how it reaches the broker (`publishing`), how often that is tried (`attempts`).
`blocking` and `aio` are the two faces.
"""
