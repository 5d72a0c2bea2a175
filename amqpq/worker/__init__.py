"""The worker: takes deliveries, has them run where they can do no harm, and settles them one way or another.

The process that owns the connection runs no user code in the prefork pool, and the threads that own it run none in any.
Read `settle` for what becomes of a delivery, `loop` for the life of a worker, `pools` for where tasks run.

Nothing is imported here: a child process that runs tasks loads `pools` and `execute`, and none of what owns the connection.
"""
