#!/usr/bin/env python3
"""Golden numbers of the Gaussian process of plugins/speculation/swift: scikit-learn's GaussianProcessRegressor with
Matern 5/2, alpha 1e-2 and normalised targets, as bayesian-optimization 1.5.1 sets it up. Writes a C header.

usage: make_swift_gp.py plugins/speculation/swift/swift_gp_golden.h        needs numpy, scikit-learn; takes a second
"""
import sys

import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

N, DIM, N_AT = 14, 8, 5


def c_array(name, a):
    rows = ",\n".join("    " + ", ".join(f"{v:.17g}" for v in r) for r in np.atleast_2d(a))
    return f"static const double {name}[] = {{\n{rows}}};\n"


def main():
    rng = np.random.Generator(np.random.PCG64(7))
    x = (rng.random((N, DIM)) < 0.4).astype(float)
    x[-4:] = rng.random((4, DIM))
    y = 0.3 + 0.1 * x @ np.arange(DIM) / DIM + 0.05 * rng.standard_normal(N)
    at = np.concatenate([x[:1], rng.random((N_AT - 1, DIM))])
    out = ["/* Made by recipes/golden/make_swift_gp.py. */\n",
           f"enum {{ GOLDEN_N = {N}, GOLDEN_DIM = {DIM}, GOLDEN_AT = {N_AT} }};\n",
           c_array("golden_x", x), c_array("golden_y", y), c_array("golden_at", at)]
    for name, optimizer, length in (("fixed", None, 1.3), ("fitted", "fmin_l_bfgs_b", 1.0)):
        gp = GaussianProcessRegressor(kernel=Matern(length_scale=length, length_scale_bounds=(1e-2, 1e3), nu=2.5),
                                      alpha=1e-2, normalize_y=True, n_restarts_optimizer=20, optimizer=optimizer,
                                      random_state=1).fit(x, y)
        mean, std = gp.predict(at, return_std=True)
        likelihood = gp.log_marginal_likelihood(gp.kernel_.theta)
        out += [f"static const double golden_{name}_length = {gp.kernel_.length_scale:.17g};\n",
                f"static const double golden_{name}_likelihood = {likelihood:.17g};\n",
                c_array(f"golden_{name}_mean", mean), c_array(f"golden_{name}_deviation", std)]
    open(sys.argv[1], "w").write("".join(out))


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    main()
