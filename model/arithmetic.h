// What the kernels share: bfloat16, and a power that no square root slows down.

#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

struct bfloat16 {
    uint16_t bits;
    bfloat16(float value) {
        uint32_t wide;
        std::memcpy(&wide, &value, sizeof wide);
        const bool is_nan = (wide & 0x7FFFFFFF) > 0x7F800000;
        bits = is_nan ? 0x7FC0 : (wide + 0x7FFF + ((wide >> 16) & 1)) >> 16; // ties to even
    }
    operator float() const {
        const uint32_t wide = uint32_t(bits) << 16;
        float value;
        std::memcpy(&value, &wide, sizeof value);
        return value;
    }
};

// q ** -0.75 for q > 0: a guess from q's bits, within 5 %, and Newton's steps towards the root of
// y ** -4 = q ** 3. Two leave an error of 1e-4, a twentieth of what bfloat16 rounds away, and three
// one of 1e-7. Square roots and divisions would take longer than the memory does.
template <typename T>
inline float power(float q) {
    constexpr int STEPS = std::is_same<T, bfloat16>::value ? 2 : 3;
    uint32_t bits;
    std::memcpy(&bits, &q, sizeof bits);
    bits = 0x6F14F000 - 3 * (bits / 4);
    float y;
    std::memcpy(&y, &bits, sizeof y);
    for (int i = 0; i < STEPS; i++) {
        const float root = q * y;
        y *= 1.25f - 0.25f * (root * root) * (root * y);
    }
    return y;
}
