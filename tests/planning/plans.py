"""Plans of two towers."""

from distributed.plan import Grid, Plan

LOCAL = Plan(2, Grid(1, 1), Grid(1, 1))
DDP = Plan(2, Grid(1, 2), Grid(1, 2))
SPLIT = Plan(2, Grid(2, 1), Grid(2, 1))
HYBRID = Plan(2, Grid(1, 2), Grid(2, 1))
