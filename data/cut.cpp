// The window of each image, mirrored or not, from uint8 to standardized numbers. Images and output
// are channels-last.

#include "arithmetic.h"

#include <algorithm>
#include <vector>

namespace {

struct Cut {
    int64_t batch;
    int height, width, channels, size;
    int shift_rows; // 1, or one for each row of the cut
    int threads;

    int line() const { return size * channels; }
};

constexpr int SPARE = 16; // bytes after a mirrored line, for what is written past its end

// Pixels from right to left. Those of three bytes are turned round 16 at a time, as the last 48 of
// 64 bytes in a register.
void mirror(const uint8_t* from, uint8_t* to, int pixels, int channels) {
    constexpr int GROUP = 16, BEFORE = 6; // pixels; so many must lie before a group
    typedef uint8_t Bytes __attribute__((vector_size(64)));
    int left = pixels;
    if (channels == 3) {
        Bytes places{};
        for (int i = 0; i < 3 * GROUP; i++) places[i] = 64 - 3 - i / 3 * 3 + i % 3;
        for (; left >= GROUP + BEFORE; left -= GROUP) {
            Bytes group;
            std::memcpy(&group, from + 3 * left - 64, 64);
            group = __builtin_shuffle(group, places);
            std::memcpy(to + 3 * (pixels - left), &group, 64);
        }
    }
    for (; left > 0; left--)
        std::copy_n(from + channels * (left - 1), channels, to + channels * (pixels - left));
}

template <typename T>
void standardize(const uint8_t* pixels, const float* factor, const float* shift,
                 const float* color, T* to, int count) {
    for (int i = 0; i < count; i++) {
        const int pixel = pixels[i];
        to[i] = T(pixel * factor[i] + (shift[i] + color[i]));
    }
}

// windows: top, left and whether to mirror. factors (channels), shifts (shift_rows, size, channels)
// and colors (batch, channels).
template <typename T>
void cut(T* out, const uint8_t* images, const int64_t* windows, const float* factors,
         const float* shifts, const float* colors, const Cut& cut) {
    const int line = cut.line(), channels = cut.channels;
#pragma omp parallel num_threads(cut.threads)
    {
        std::vector<uint8_t> mirrored(line + SPARE);
        std::vector<float> factor(line), color(line);
        for (int i = 0; i < line; i++) factor[i] = factors[i % channels];
#pragma omp for
        for (int64_t image = 0; image < cut.batch; image++) {
            const int64_t* window = windows + 3 * image;
            for (int i = 0; i < line; i++) color[i] = colors[image * channels + i % channels];
            for (int row = 0; row < cut.size; row++) {
                const int64_t y = image * cut.height + window[0] + row;
                const uint8_t* pixels = images + (y * cut.width + window[1]) * channels;
                if (window[2]) {
                    mirror(pixels, mirrored.data(), cut.size, channels);
                    pixels = mirrored.data();
                }
                const float* shift = shifts + row % cut.shift_rows * line;
                T* target = out + (image * cut.size + row) * line;
                standardize(pixels, factor.data(), shift, color.data(), target, line);
            }
        }
    }
}

} // namespace

#define EXPORT(T)                                                                                  \
    void cut_##T(T* out, const uint8_t* images, const int64_t* windows, const float* factors,      \
                 const float* shifts, const float* colors, Cut settings) {                         \
        cut(out, images, windows, factors, shifts, colors, settings);                              \
    }

using float32 = float;
extern "C" {
EXPORT(float32)
EXPORT(bfloat16)
}
