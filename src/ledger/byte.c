/* byte.c - the six-entry table and a shift; see byte.h. */
#include "peerd/byte.h"

#include <assert.h>
#include <math.h>

/* round(2^(30 + k/6)) */
static const uint64_t octave[6] = {1073741824, 1205234447, 1352829926,
                                   1518500250, 1704458901, 1913190429};

uint64_t pd_byte_fixed(uint8_t byte) {
    unsigned c = byte & 127U;
    return c == 0 ? 0 : octave[(c - 1) % 6] << (c - 1) / 6;
}

double pd_byte_value(uint8_t byte) {
    double v = (double)pd_byte_fixed(byte) * 0x1p-40;
    return byte & 128 ? -v : v;
}

int64_t pd_byte_coefficient(uint8_t byte, uint64_t L, unsigned F) {
    assert(L <= PD_STEP_MAX && F >= 8 && F <= 30);
    __extension__ typedef unsigned __int128 wide;
    unsigned shift = 80 - F;
    wide p = (wide)pd_byte_fixed(byte) * L + ((wide)1 << (shift - 1));
    int64_t q = (int64_t)(p >> shift);
    return byte & 128 ? q : -q;
}

uint8_t pd_byte_encode(double g, double scale, double u) {
    assert(isfinite(g) && scale > 0);
    double x = fabs(g) / scale;
    unsigned lo = 0,
             hi = 128; /* value(lo) <= x < value(hi), where value(128) is taken as infinite */
    while (hi - lo > 1) {
        unsigned mid = (lo + hi) / 2;
        if (pd_byte_value((uint8_t)mid) <= x)
            lo = mid;
        else
            hi = mid;
    }
    if (lo < 127) {
        double below = pd_byte_value((uint8_t)lo), above = pd_byte_value((uint8_t)hi);
        double p = (x - below) / (above - below);
        if (u < 0 ? p >= 0.5 : u < p)
            lo = hi;
    }
    return (uint8_t)(lo == 0 || g > 0 ? lo : lo | 128);
}
