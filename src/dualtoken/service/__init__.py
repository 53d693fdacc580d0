"""A model behind HTTP: `dualtoken serve`. The page for people, `dualtoken app`, stands beside it.

`serving` starts it, `web` has the routes and `open_inference` those of KServe's protocol, `guard` stands in front of
all of them, `batches` is the queue before a network.
"""
