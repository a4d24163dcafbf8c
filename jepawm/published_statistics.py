"""Mean and deviation of actions and proprio that the published systems normalise with, in the raw units of their data.

Both the importers (`jepawm.data`) and the translation of published models (`jepawm.checkpoints.zoo`) read it.
Constants of facebookresearch/jepa-wms (arXiv 2512.24497); those of Push-T are gaoyuezhou/dino_wm's (arXiv 2411.04983).
"""

import numpy as np

from jepawm.types import Statistics


def _statistics(
    action_mean: list[float], action_std: list[float], proprio_mean: list[float], proprio_std: list[float]
) -> Statistics:
    columns = (action_mean, action_std, proprio_mean, proprio_std)
    return Statistics(*(np.asarray(values, dtype=np.float32) for values in columns))


PUBLISHED_STATISTICS: dict[str, Statistics] = {
    "metaworld": _statistics(
        [0.005723577458411455, 0.15735651552677155, -0.1396457850933075, 0.1998193860054016],
        [0.7359239459037781, 0.73408043384552, 0.7182977199554443, 0.743205726146698],
        [-0.0029392109718173742, 0.6544238924980164, 0.15410053730010986, 0.6402314901351929],
        [0.10431358963251114, 0.11230525374412537, 0.07981759309768677, 0.26138949394226074],
    ),
    "pusht": _statistics(
        [-0.008700000122189522, 0.006800000090152025],
        [0.20190000534057617, 0.20020000636577606],
        [236.61549377441406, 264.5674133300781, -2.9303202629089355, 2.543079137802124],
        [101.12020111083984, 87.01119995117188, 74.8455581665039, 74.14009094238281],
    ),
    "pointmaze": _statistics(
        [7.821338658686727e-05, 0.0006003659800626338],
        [0.5769129991531372, 0.577587902545929],
        [1.8130563497543335, 1.9377127885818481, -0.0039275349117815495, -0.019777977839112282],
        [1.0055010318756104, 0.9630089402198792, 1.6802769899368286, 1.9319307804107666],
    ),
    "wall": _statistics(
        [-0.005564616061747074, 0.013197818771004677],
        [0.752332866191864, 0.7466897964477539],
        [31.89451026916504, 31.81402015686035],
        [17.663522720336914, 17.27516746520996],
    ),
    "droid": _statistics([0.0] * 7, [1.0] * 7, [0.0] * 7, [1.0] * 7),
}
