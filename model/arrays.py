"""Names for arrays by what their elements are."""

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Halves = npt.NDArray[np.float16]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
