// Routing by agreement without stored votes, for a CPU. Taught in chapter 5, *Routing without votes*.
//
// Compiled on first use for one size of layer (J, E, D), one number type (REAL) and one vector width (LANES numbers);
// see native.py. The batch lies in the lanes: a vector holds one number of LANES capsules, and BLOCKS vectors hold the batch.
//
//   weight W and its gradient dW                                          [I, J, E, D]
//   capsules u and their gradient du                                       [BLOCKS, I, D, LANES]
//   weighted sums s, outputs v and their gradient dv, sums V of earlier v  [BLOCKS, J, E, LANES]
//   couplings                                                              [I, BLOCKS, J, LANES]

typedef REAL vec __attribute__((vector_size(LANES * sizeof(REAL)), aligned(sizeof(REAL))));

constexpr int TILE = 16;   // input capsules whose matrices stay in the second cache while the batch goes by
constexpr int CHUNK = 16;  // vectors of the batch whose couplings stay in the first cache, backward

// exp(x) for x <= 0, number by number in double, as a vector in float: 2^n e^f with |f| <= ln(2)/2, and a polynomial for e^f
// (coefficients of the Cephes library; 2 units in the last place).
static inline vec exp_nonpositive(vec x) {
    if (sizeof(REAL) == 8) {
        for (int l = 0; l < LANES; l++) x[l] = __builtin_exp(x[l]);
        return x;
    }
    typedef int ints __attribute__((vector_size(LANES * sizeof(int))));
    typedef float floats __attribute__((vector_size(LANES * sizeof(float))));
    floats y = __builtin_convertvector(x, floats);
    y = y < -87.f ? floats{} - 87.f : y;
    ints n = __builtin_convertvector(y * 1.44269504f - .5f, ints);
    floats f = y - __builtin_convertvector(n, floats) * .693359375f + __builtin_convertvector(n, floats) * 2.12194440e-4f;
    floats p = ((((1.9875691500e-4f * f + 1.3981999507e-3f) * f + 8.3334519073e-3f) * f + 4.1665795894e-2f) * f
                + 1.6666665459e-1f) * f + 5.0000001201e-1f;
    p = (p * f * f + f + 1.f) * (floats)((n + 127) << 23);
    return __builtin_convertvector(p, vec);
}

// c_j = softmax_j(u_hat_j . V_j) of one input capsule; its votes u_hat_j = W_j u are left in `votes` where that is not null.
static inline void couplings(const REAL* w, const vec* capsule, const vec* V, vec* __restrict c, vec* __restrict votes) {
    vec u[D], highest, total = {};
    for (int d = 0; d < D; d++) u[d] = capsule[d];
    for (int j = 0; j < J; j++) {
        vec agreement = {};
        for (int e = 0; e < E; e++) {
            vec vote = w[(j * E + e) * D] * u[0];
            for (int d = 1; d < D; d++) vote += w[(j * E + e) * D + d] * u[d];
            agreement += vote * V[j * E + e];
            if (votes) votes[j * E + e] = vote;
        }
        c[j] = agreement;
        highest = j == 0 ? agreement : agreement > highest ? agreement : highest;
    }
    for (int j = 0; j < J; j++) total += c[j] = exp_nonpositive(c[j] - highest);
    for (int j = 0; j < J; j++) c[j] /= total;
}

// Of a capsule s: |s|^2, 1 / sqrt(|s|^2 + epsilon), and the factor of v = squash(s) = factor * s.
struct Length {
    vec squared = {}, root, factor;
    Length(const vec* s) {
        for (int e = 0; e < E; e++) squared += s[e] * s[e];
        for (int l = 0; l < LANES; l++) root[l] = __builtin_sqrt(squared[l] + REAL(EPSILON));
        root = 1 / root;
        factor = squared / (1 + squared) * root;
    }
};

// sum_j += u_hat_j of some input capsules; E sums stay in registers.
static inline void add_votes(const REAL* W, const vec* u, int count, vec* __restrict sum) {
    for (int j = 0; j < J; j++) {
        vec total[E];
        for (int e = 0; e < E; e++) total[e] = sum[j * E + e];
        for (int i = 0; i < count; i++) {
            const REAL* w = W + (i * J + j) * E * D;
            vec vote[E];
            for (int e = 0; e < E; e++) vote[e] = w[e * D] * u[i * D];
            for (int d = 1; d < D; d++)
                for (int e = 0; e < E; e++) vote[e] += w[e * D + d] * u[i * D + d];
            for (int e = 0; e < E; e++) total[e] += vote[e];
        }
        for (int e = 0; e < E; e++) sum[j * E + e] = total[e];
    }
}

// All iterations: s_j = 1/J sum over i of u_hat_ij, v_j = squash(s_j), and each further time V_j += v_j, s_j = sum over i of
// c_ij u_hat_ij, v_j = squash(s_j). Each slice of input capsules has a partial sum of its own [BLOCKS, J, E, LANES], so that the
// order of additions, and with it the last bit, does not depend on the threads. The last couplings are left in `kept` unless that
// is null.
extern "C" void forward(const REAL* W, const vec* u, vec* V, vec* s, vec* v, vec* partial, vec* kept, long I, long blocks,
                        long slice_size, long threads, long iterations) {
    long size = blocks * J * E, slices = (I + slice_size - 1) / slice_size;
    for (long r = 0; r < iterations; r++) {
#pragma omp parallel for num_threads(threads)
        for (long slice = 0; slice < slices; slice++) {
            vec votes[J * E], couplings_here[J];
            vec* sum = partial + slice * size;
            for (long n = 0; n < size; n++) sum[n] = vec{};
            long end = (slice + 1) * slice_size < I ? (slice + 1) * slice_size : I;
            for (long tile = slice * slice_size; tile < end; tile += TILE) {
                int count = end - tile < TILE ? end - tile : TILE;
                for (long k = 0; k < blocks; k++) {
                    if (!r) {
                        add_votes(W + tile * J * E * D, u + (k * I + tile) * D, count, sum + k * J * E);
                        continue;
                    }
                    for (long i = tile; i < tile + count; i++) {
                        vec* c = kept && r == iterations - 1 ? kept + (i * blocks + k) * J : couplings_here;
                        couplings(W + i * J * E * D, u + (k * I + i) * D, V + k * J * E, c, votes);
                        for (int j = 0; j < J; j++)
                            for (int e = 0; e < E; e++) sum[k * J * E + j * E + e] += c[j] * votes[j * E + e];
                    }
                }
            }
        }
#pragma omp parallel for num_threads(threads)
        for (long k = 0; k < blocks; k++)
            for (long j = k * J * E; j < (k + 1) * J * E; j += E) {
                for (long n = j; n < j + E; n++) {
                    s[n] = partial[n];
                    for (long slice = 1; slice < slices; slice++) s[n] += partial[slice * size + n];
                    if (!r) s[n] /= J;
                }
                vec factor = Length(s + j).factor;
                for (long n = j; n < j + E; n++) {
                    v[n] = factor * s[n];
                    if (r < iterations - 1) V[n] = r ? V[n] + v[n] : v[n];
                }
            }
    }
}

// With the couplings as constants: ds_j = f dv_j + 2 f' (s_j . dv_j) s_j as in functional.squash_gradient, left in the scratch
// ds [J, E, BLOCKS, LANES]; g_ij = c_ij ds_j, du_i = sum over j of W_ij^T g_ij, dW_ij = sum over B of g_ij u_i^T.
// The couplings are `kept`, or those that belong to V where that is null.
extern "C" void backward(const REAL* W, const vec* u, const vec* V, const vec* s, const vec* dv, const vec* kept, vec* ds, vec* du,
                          REAL* dW, long I, long blocks, long threads) {
#pragma omp parallel for num_threads(threads)
    for (long k = 0; k < blocks; k++)
        for (int j = 0; j < J; j++) {
            const vec *here = s + (k * J + j) * E, *back = dv + (k * J + j) * E;
            Length length(here);
            vec slope = length.root / ((1 + length.squared) * (1 + length.squared)), along = {};
            slope -= length.factor * length.root * length.root / 2;
            for (int e = 0; e < E; e++) along += here[e] * back[e];
            for (int e = 0; e < E; e++) ds[(j * E + e) * blocks + k] = length.factor * back[e] + 2 * slope * along * here[e];
        }
#pragma omp parallel for num_threads(threads)
    for (long i = 0; i < I; i++) {
        vec computed[CHUNK * J], back[CHUNK * D], g[CHUNK * E], seen[CHUNK * D];
        const REAL* w = W + i * J * E * D;
        REAL* dw = dW + i * J * E * D;
        for (long start = 0; start < blocks; start += CHUNK) {
            int count = blocks - start < CHUNK ? blocks - start : CHUNK;
            const vec* c = kept ? kept + (i * blocks + start) * J : computed;
            for (int k = 0; k < count; k++) {
                const vec* here = u + ((start + k) * I + i) * D;
                if (!kept) couplings(w, here, V + (start + k) * J * E, computed + k * J, nullptr);
                for (int d = 0; d < D; d++) back[k * D + d] = vec{}, seen[k * D + d] = here[d];
            }
            for (int j = 0; j < J; j++) {
                for (int k = 0; k < count; k++)
                    for (int e = 0; e < E; e++) {
                        vec here = g[k * E + e] = c[k * J + j] * ds[(j * E + e) * blocks + start + k];
                        for (int d = 0; d < D; d++) back[k * D + d] += w[(j * E + e) * D + d] * here;
                    }
                for (int e = 0; e < E; e++) {
                    vec sum[D] = {};
                    for (int k = 0; k < count; k++)
                        for (int d = 0; d < D; d++) sum[d] += g[k * E + e] * seen[k * D + d];
                    for (int d = 0; d < D; d++) {
                        REAL total = 0;
                        for (int l = 0; l < LANES; l++) total += sum[d][l];
                        dw[(j * E + e) * D + d] = start == 0 ? total : dw[(j * E + e) * D + d] + total;
                    }
                }
            }
            for (int k = 0; k < count; k++)
                for (int d = 0; d < D; d++) du[((start + k) * I + i) * D + d] = back[k * D + d];
        }
    }
}
