/* swift_gp.h - Gaussian process regression with an upper confidence bound, as the bayesian-optimization package 1.5.1
 * runs it: Matern 5/2 kernel with one length scale, unit signal variance, noise alpha on normalised targets, the length
 * scale of the largest marginal likelihood. Points lie in [0, 1]^dim. Takes no memory of its own. */
#ifndef SWIFT_SWIFT_GP_H
#define SWIFT_SWIFT_GP_H

#include <stdint.h>

#define SWIFT_GP_NOISE 1e-2 /* alpha */
#define SWIFT_GP_KAPPA 2.5  /* of the upper confidence bound: mean + kappa * deviation */

typedef struct swift_gp {
    double *x, *y;          /* [cap, dim], [cap] points told so far */
    double *factor;         /* [cap, cap] lower Cholesky factor of the kernel matrix */
    double *weight, *solve; /* [cap] K^-1 y, and room for one solution */
    double mean, deviation; /* of the targets */
    double length;          /* length scale */
    double likelihood;      /* log marginal likelihood of the normalised targets */
    int64_t n, cap;
    int32_t dim;
} swift_gp;

/* Doubles that swift_gp_place needs. */
int64_t swift_gp_size(int32_t dim, int64_t cap);
void swift_gp_place(swift_gp *gp, int32_t dim, int64_t cap, double *memory);

/* Adds a point and its value; beyond cap nothing happens. */
void swift_gp_tell(swift_gp *gp, const double *x, double y);

/* Fits to the points told so far, n >= 1: with this length scale, or with that of the largest likelihood. */
void swift_gp_fit_length(swift_gp *gp, double length);
void swift_gp_fit(swift_gp *gp);

/* After a fit: mean and standard deviation at x, in the targets' unit. */
void swift_gp_predict(swift_gp *gp, const double *x, double *mean, double *deviation);
double swift_gp_bound(swift_gp *gp, const double *x);

#endif
