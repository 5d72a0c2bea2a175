"""Pictures of a topology: one graph of nodes and edges, and renderers for it. Pure; no broker, no external program.

`build.graph` makes the graph, `path.lit` lights the way of one message, `live.annotated` puts what the broker says beside the
queues; `svg`, `mermaid`, `dot` and `tree` draw it. The same topology always gives the same text.
"""
