// Resize, crop, mirror and standardize uint8 images in one pass over memory. Images and output are
// channels-last.

#include "arithmetic.h"

#include <algorithm>
#include <vector>

namespace {

struct Crop {
    int64_t batch;
    int height, width, channels, resize, size;
    int shift_rows; // 1, or one for each row of the crop
    int threads;

    bool resizes() const { return height != resize || width != resize; }
    int stored_line() const { return width * channels; }
    int line() const { return size * channels; }
    int longest() const { return resizes() ? std::max(line(), stored_line()) : line(); }
};

struct Band {
    int64_t first, end;
};

// Weights for resizing: down (resize, height) for the stored rows, across (width * channels,
// resize * channels) for the numbers of a stored line. The weights that are not 0 lie in a band for
// each row of down and each column of across.
struct Interpolation {
    const float *down, *across;
    const Band *rows, *columns;
};

constexpr int SPARE = 16; // bytes after a mirrored line, for what is written past its end

// Reverse a line of pixels. Pixels of three bytes are reversed 16 at a time, as the last 48 of the
// 64 bytes in a register.
void mirror(const uint8_t* from, uint8_t* to, int pixels, int channels) {
    constexpr int GROUP = 16, BEFORE = 6; // pixels; so many must lie before a group
    typedef uint8_t Bytes __attribute__((vector_size(64)));
    int left = pixels;
    if (channels == 1) {
        std::reverse_copy(from, from + pixels, to);
        return;
    }
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
void standardize(const uint8_t* pixels, const float* factor, const float* shift, const float* color,
                 T* to, int count) {
    for (int i = 0; i < count; i++) {
        const int pixel = pixels[i];
        to[i] = T(pixel * factor[i] + (shift[i] + color[i]));
    }
}

// Write start plus the weighted sum of a band's lines, for one number or for sixteen.
template <typename Numbers, typename T>
void add(const float* start, const float* lines, int stride, const float* weights, Band band,
         T* to) {
    constexpr int COUNT = sizeof(Numbers) / sizeof(float);
    Numbers sum, line;
    std::memcpy(&sum, start, sizeof sum);
    for (int64_t k = band.first; k < band.end; k++) {
        std::memcpy(&line, lines + k * stride, sizeof line);
        sum += weights[k] * line;
    }
    float sums[COUNT];
    std::memcpy(sums, &sum, sizeof sum);
    for (int i = 0; i < COUNT; i++) to[i] = T(sums[i]);
}

// Do so for a whole line, whose numbers each have a band (step 1) or share one (step 0).
template <typename T>
void add_lines(const float* start, const float* lines, int stride, const float* weights,
               const Band* bands, int step, T* to, int count) {
    constexpr int GROUP = 16;
    typedef float Group __attribute__((vector_size(GROUP * sizeof(float))));
    int i = 0;
    for (; i + GROUP <= count; i += GROUP) {
        const Band band{bands[i * step].first, bands[(i + GROUP - 1) * step].end};
        add<Group>(start + i, lines + i, stride, weights, band, to + i);
    }
    for (; i < count; i++)
        add<float>(start + i, lines + i, stride, weights, bands[i * step], to + i);
}

// A thread's buffers: the channels' factors and colors repeated along a line, and a mirrored line.
// For images that are resized, also a stored line and the rows interpolated across so far.
struct Work {
    std::vector<uint8_t> mirrored;
    std::vector<float> factors, colors, pixels, rows;

    Work(const Crop& crop)
        : mirrored(crop.longest() + SPARE), factors(crop.longest()), colors(crop.longest()),
          pixels(crop.resizes() ? crop.stored_line() : 0),
          rows(crop.resizes() ? crop.height * crop.line() : 0) {}

    const uint8_t* mirror(const uint8_t* line, int pixels, int channels) {
        ::mirror(line, mirrored.data(), pixels, channels);
        return mirrored.data();
    }
};

template <typename T>
void crop_stored(T* out, const uint8_t* image, const int64_t* window, const float* shifts,
                 Work& work, const Crop& crop) {
    const int line = crop.line();
    const float *factor = work.factors.data(), *color = work.colors.data();
    for (int row = 0; row < crop.size; row++) {
        const int64_t y = window[0] + row;
        const uint8_t* pixels = image + (y * crop.width + window[1]) * crop.channels;
        if (window[2]) pixels = work.mirror(pixels, crop.size, crop.channels);
        const float* shift = shifts + row % crop.shift_rows * line;
        standardize(pixels, factor, shift, color, out + row * line, line);
    }
}

// Each stored row is interpolated across once, just before the first output row that needs it.
template <typename T>
void crop_resized(T* out, const uint8_t* image, const int64_t* window, const float* shifts,
                  const Interpolation& by, Work& work, const Crop& crop) {
    const int line = crop.line(), stored = crop.stored_line();
    const int left = window[2] ? crop.resize - crop.size - window[1] : window[1];
    const float* across = by.across + left * crop.channels;
    const Band* columns = by.columns + left * crop.channels;
    float *pixels = work.pixels.data(), *rows = work.rows.data();
    int64_t next = 0;
    for (int row = 0; row < crop.size; row++) {
        const int64_t y = window[0] + row;
        for (next = std::max(next, by.rows[y].first); next < by.rows[y].end; next++) {
            const uint8_t* from = image + next * stored;
            if (window[2]) from = work.mirror(from, crop.width, crop.channels);
            for (int i = 0; i < stored; i++) pixels[i] = from[i] * work.factors[i];
            add_lines(work.colors.data(), across, crop.resize * crop.channels, pixels, columns, 1,
                      rows + next * line, line);
        }
        const float* shift = shifts + row % crop.shift_rows * line;
        add_lines(shift, rows, line, by.down + y * crop.height, by.rows + y, 0, out + row * line,
                  line);
    }
}

// windows (batch, 3): top, left, and 1 to mirror. factors (channels), shifts (shift_rows, size,
// channels) and colors (batch, channels).
template <typename T>
void crop(T* out, const uint8_t* images, const int64_t* windows, const float* factors,
          const float* shifts, const float* colors, const Interpolation& by, const Crop& crop) {
    const int channels = crop.channels;
#pragma omp parallel num_threads(crop.threads)
    {
        Work work(crop);
        const int longest = work.factors.size();
        for (int i = 0; i < longest; i++) work.factors[i] = factors[i % channels];
#pragma omp for
        for (int64_t number = 0; number < crop.batch; number++) {
            for (int i = 0; i < longest; i++)
                work.colors[i] = colors[number * channels + i % channels];
            const uint8_t* image = images + number * crop.height * crop.stored_line();
            const int64_t* window = windows + 3 * number;
            T* target = out + number * crop.size * crop.line();
            if (crop.resizes())
                crop_resized(target, image, window, shifts, by, work, crop);
            else
                crop_stored(target, image, window, shifts, work, crop);
        }
    }
}

} // namespace

#define EXPORT(T)                                                                                  \
    void crop_##T(T* out, const uint8_t* images, const int64_t* windows, const float* factors,     \
                  const float* shifts, const float* colors, const float* down,                     \
                  const float* across, const Band* rows, const Band* columns, Crop settings) {     \
        crop(out, images, windows, factors, shifts, colors, {down, across, rows, columns},         \
             settings);                                                                            \
    }

using float32 = float;
extern "C" {
EXPORT(float32)
EXPORT(bfloat16)
}
