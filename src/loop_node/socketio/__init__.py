"""Engine.IO 4 and Socket.IO 5 under Trio.

The protocol is pure and knows no clock: `engineio`, `packets` and `peer`. `session` gives a protocol peer its tasks, `server` and
`client` move frames between a session and a socket, `hosting` is what the web server around it must do.
"""
