"""The desk for dead letters: read them without loss, choose, send back to where they came from, drop.

Theory. A queue can be read only by taking from it. So looking is taking without acknowledging, and closing the channel
afterwards: the broker then puts everything back where it was (https://www.rabbitmq.com/docs/confirms#automatic-requeueing),
marked as redelivered. While somebody looks, nobody else sees those messages; and a quorum queue counts each look as a
delivery, so that looking too often would reach its delivery limit, and the broker would drop the message. The desk stops
before that.

Sending back goes through a queue in between, so that whoever is killed loses nothing and doubles nothing: see `returning`.

`letter` reads a message, `choosing` filters, `planning` decides what becomes of each, `pacing` limits the rate; all pure.
`flows` are the protocols on a channel, `desk` runs them for blocking code.
"""
