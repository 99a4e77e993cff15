// Arithmetic for all kernels: bfloat16, and a power without square roots.

#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

struct bfloat16 {
    uint16_t bits;
    bfloat16(float value) {
        uint32_t wide;
        std::memcpy(&wide, &value, sizeof wide);
        // Ties to even. A NaN stays NaN: those that arithmetic makes do not overflow here.
        bits = (wide + 0x7FFF + ((wide >> 16) & 1)) >> 16;
    }
    operator float() const {
        const uint32_t wide = uint32_t(bits) << 16;
        float value;
        std::memcpy(&value, &wide, sizeof value);
        return value;
    }
};

// q ** -0.75 for q > 0: a guess y from q's bits, within 5 %, times (1 - e) ** -0.25 as a series,
// where 1 - e = q ** 3 y ** 4. One step leaves an error of 1e-4, a twentieth of bfloat16's
// rounding; two leave 1e-7. Square roots and divisions would take longer than memory does.
template <typename T>
inline float power(float q) {
    constexpr int TIMES = std::is_same<T, bfloat16>::value ? 1 : 2;
    uint32_t bits;
    std::memcpy(&bits, &q, sizeof bits);
    bits = 0x6F14F000 - 3 * (bits / 4);
    float y;
    std::memcpy(&y, &bits, sizeof y);
    for (int i = 0; i < TIMES; i++) {
        const float root = q * y, e = 1 - (root * root) * (root * y);
        y += y * e * (0.25f + e * (5 / 32.0f + e * (15 / 128.0f)));
    }
    return y;
}
