/* What a layer computes between two products of matrices, each in one pass over its rows.

   `steps.py` compiles this and says what each function is for. A `real` is bf16 where HALF is 1,
   else fp32. Rows lie one behind the other; those of integers, too. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#if HALF
typedef uint16_t real;
typedef uint16_t bits;
static inline bits magnitude(real x) { return x & 0x7FFF; }
static inline float wide(real x)
{
    uint32_t all = (uint32_t)x << 16;
    float result;
    memcpy(&result, &all, 4);
    return result;
}
static inline real narrow(float x)
{
    uint32_t all;
    memcpy(&all, &x, 4);
    return (all + 0x7FFF + (all >> 16 & 1)) >> 16; /* to the nearest, ties to even */
}
#else
typedef float real;
typedef uint32_t bits;
static inline bits magnitude(real x)
{
    bits all;
    memcpy(&all, &x, 4);
    return all & 0x7FFFFFFF;
}
static inline float wide(real x) { return x; }
static inline real narrow(float x) { return x; }
#endif

#define EACH_ROW                                                      \
    _Pragma("omp parallel for num_threads(threads) schedule(static)") \
    for (long r = 0; r < rows; r++)

/* LayerNorm without a bias. */
void normed(const real *in, const real *weight, float eps, real *out, long rows, long width,
            long threads)
{
    EACH_ROW
    {
        const real *from = in + r * width;
        real *to = out + r * width;
        float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
        for (long i = 0; i < width; i++)
            sum += wide(from[i]);
        float mean = sum / width;
#pragma omp simd reduction(+ : squares)
        for (long i = 0; i < width; i++)
            squares += (wide(from[i]) - mean) * (wide(from[i]) - mean);
        float scale = 1 / sqrtf(squares / width + eps);
        for (long i = 0; i < width; i++)
            to[i] = narrow((wide(from[i]) - mean) * scale * wide(weight[i]));
    }
}

/* (rows, width) in 255 steps about `zero`, and what 127 of them stand for in each row. */
void quantised(const real *in, long zero, uint8_t *out, float *largest, long rows, long width,
               long threads)
{
    EACH_ROW
    {
        const real *from = in + r * width;
        uint8_t *to = out + r * width;
        bits most = 0; /* without their signs, numbers are in the order of their bits */
        for (long i = 0; i < width; i++)
            most = magnitude(from[i]) > most ? magnitude(from[i]) : most;
        real whole;
        memcpy(&whole, &most, sizeof whole);
        float top = wide(whole) < 1e-12f ? 1e-12f : wide(whole), scale = 127 / top;
        for (long i = 0; i < width; i++)
            to[i] = (int)rintf(wide(from[i]) * scale) + zero;
        largest[r] = top;
    }
}

/* erf to 3e-7: the rational approximation of Eigen and XLA within [-4, 4], beyond which it is 1. */
static inline float erf_(float x)
{
    x = x < -4 ? -4 : x > 4 ? 4 : x;
    float y = x * x;
    float above = -2.72614225801306e-10f;
    above = above * y + 2.77068142495902e-08f;
    above = above * y - 2.10102402082508e-06f;
    above = above * y - 5.69250639462346e-05f;
    above = above * y - 7.34990630326855e-04f;
    above = above * y - 2.95459980854025e-03f;
    above = above * y - 1.60960333262415e-02f;
    float below = -1.45660718464996e-05f;
    below = below * y - 2.13374055278905e-04f;
    below = below * y - 1.68282697438203e-03f;
    below = below * y - 7.37332916720468e-03f;
    below = below * y - 1.42647390514189e-02f;
    return x * above / below;
}

/* `value` becomes GELU(value) times `gate`; rows of both are multiplied by `factor` first. */
void gated(real *value, const real *gate, const float *factor, long rows, long width, long threads)
{
    EACH_ROW
    {
        real *to = value + r * width;
        const real *by = gate + r * width;
        for (long i = 0; i < width; i++) {
            float x = wide(to[i]) * factor[r];
            to[i] = narrow(x * (0.5f + 0.5f * erf_(x * 0.70710678f)) * wide(by[i]) * factor[r]);
        }
    }
}

/* `product` becomes `to` plus each row of it times `factor`. */
void added(real *product, const real *to, const float *factor, long rows, long width, long threads)
{
    EACH_ROW
    {
        for (long i = r * width; i < (r + 1) * width; i++)
            product[i] = narrow(wide(to[i]) + wide(product[i]) * factor[r]);
    }
}

/* Queries, keys and values in a row: of the first two each pair of numbers is multiplied, as one
   complex number, by that of `rotation`, (rows, 2, pairs); all by `factor` unless it is NULL. */
void turned(real *qkv, const float *rotation, const float *factor, long rows, long heads,
            long pairs, long threads)
{
    EACH_ROW
    {
        float whole = factor ? factor[r] : 1;
        real *at = qkv + r * 3 * heads * 2 * pairs;
        for (int kind = 0; kind < 2; kind++) {
            const float *by = rotation + (r * 2 + kind) * 2 * pairs;
            for (long head = 0; head < heads; head++, at += 2 * pairs)
                for (long i = 0; i < 2 * pairs; i += 2) {
                    float x = wide(at[i]) * whole, y = wide(at[i + 1]) * whole;
                    at[i] = narrow(x * by[i] - y * by[i + 1]);
                    at[i + 1] = narrow(x * by[i + 1] + y * by[i]);
                }
        }
        if (factor)
            for (long i = 0; i < heads * 2 * pairs; i++)
                at[i] = narrow(wide(at[i]) * whole);
    }
}
