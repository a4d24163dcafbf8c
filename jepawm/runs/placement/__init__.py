"""Where the processes of a run go: what each claims, which nodes a cluster has or can start, and whether all fit.

Nothing here knows Ray: `jepawm.distributed.cluster` looks at a cluster and describes it in these words.
"""

from jepawm.runs.placement.demand import Claim, Role
from jepawm.runs.placement.nodes import Cluster, NodeType
from jepawm.runs.placement.plan import PlacementPlan, Stage, place_pretraining, place_run, tell_placement

__all__ = [
    "Claim",
    "Cluster",
    "NodeType",
    "PlacementPlan",
    "Role",
    "Stage",
    "place_pretraining",
    "place_run",
    "tell_placement",
]
