"""What Rayconcile runs inside a Ray cluster: one agent, a bridge per job, and slots that host workers.

`agent` is the program of a Ray job on the head; the controller talks to nothing else. It keeps a detached
`bridge` actor per AdaptDLJob, which makes one job's groups so. A bridge owns `slot` actors, one per worker
and node, which carry the job's runtime environment and start `worker` processes: the user's program.

Nothing beyond `ray[default]` is needed here, nothing beyond `ray` and the standard library in `slot`, and
nothing beyond the standard library in `worker`.
"""

# The version of what the controller and the agent say to each other. A controller refuses another one.
PROTOCOL = 3
