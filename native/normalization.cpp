// Local response normalisation on the CPU: forward and backward, each in one pass over memory.
//
// A map is (outer, channels, inner), the channels being those of one tower: inner = 1 if they lie
// next to each other (channels-last), else the number of pixels. Work goes in tiles that stay in
// the cache, in float32 whatever the map's type.

#include "arithmetic.h"

#include <algorithm>

namespace {

struct Norm {
    int64_t outer, inner;
    int channels;
    float scale, k;
    int threads;
};

constexpr int HALF = 2, ROWS = 8, PIXELS = 128, MOST_CHANNELS = 512;
constexpr int TILE = MOST_CHANNELS * PIXELS, PADDED = TILE + 2 * HALF * PIXELS;

// A tile in memory is `runs` runs of `length` neighbours, `stride` apart, and packed in the cache.
// There it is `groups` groups of `span` numbers that hold every channel, `step` numbers apart.
struct Tile {
    int64_t start, stride;
    int runs, length, groups, span, step;

    static int64_t across(const Norm& norm) { return (norm.inner + PIXELS - 1) / PIXELS; }

    static int64_t count(const Norm& norm) {
        return norm.inner == 1 ? (norm.outer + ROWS - 1) / ROWS : norm.outer * across(norm);
    }

    Tile(const Norm& norm, int64_t index) {
        if (norm.inner == 1) {
            start = index * ROWS * norm.channels;
            stride = length = span = norm.channels;
            runs = groups = std::min<int64_t>(ROWS, norm.outer - index * ROWS);
            step = 1;
        } else {
            const int64_t pixel = index % across(norm) * PIXELS;
            start = index / across(norm) * norm.channels * norm.inner + pixel;
            stride = norm.inner;
            runs = norm.channels;
            length = step = std::min<int64_t>(PIXELS, norm.inner - pixel);
            groups = 1;
            span = runs * length;
        }
    }

    template <typename T>
    void load(const T* map, float* packed) const {
        for (int run = 0; run < runs; run++)
            for (int i = 0; i < length; i++)
                packed[run * length + i] = map[start + run * stride + i];
    }

    template <typename T>
    void store(const float* packed, T* map) const {
        for (int run = 0; run < runs; run++)
            for (int i = 0; i < length; i++)
                map[start + run * stride + i] = T(packed[run * length + i]);
    }

    int margin() const { return HALF * step; }

    // Visits every number j of the tile as visit(j, padded), `padded` being its place among
    // numbers with HALF channels of zeros before and after each group.
    template <typename Visit>
    void each(Visit visit) const {
        for (int group = 0; group < groups; group++)
            for (int j = 0; j < span; j++)
                visit(group * span + j, group * (span + 2 * margin()) + margin() + j);
    }

    void clear_margins(float* padded) const {
        for (int group = 0; group < groups; group++) {
            float* begin = padded + group * (span + 2 * margin());
            std::fill(begin, begin + margin(), 0.0f);
            std::fill(begin + margin() + span, begin + 2 * margin() + span, 0.0f);
        }
    }

    float window_sum(const float* padded) const {
        float sum = padded[0];
        for (int d = 1; d <= HALF; d++) sum += padded[-d * step] + padded[d * step];
        return sum;
    }
};

template <typename T>
void forward(const T* x, T* y, const Norm& norm) {
#pragma omp parallel for num_threads(norm.threads)
    for (int64_t index = 0; index < Tile::count(norm); index++) {
        const Tile tile(norm, index);
        float a[TILE], squares[PADDED];
        tile.load(x, a);
        tile.clear_margins(squares);
        tile.each([&](int j, int p) { squares[p] = a[j] * a[j]; });
        tile.each([&](int j, int p) {
            a[j] *= power<T>(norm.k + norm.scale * tile.window_sum(squares + p));
        });
        tile.store(a, y);
    }
}

// grad_x[c] = g[c] q[c]^-0.75 - 1.5 scale x[c] * sum over the window of (g x q^-1.75)
template <typename T>
void backward(const T* x, const T* grad_y, T* grad_x, const Norm& norm) {
#pragma omp parallel for num_threads(norm.threads)
    for (int64_t index = 0; index < Tile::count(norm); index++) {
        const Tile tile(norm, index);
        float a[TILE], g[TILE], squares[PADDED], through[PADDED];
        tile.load(x, a);
        tile.load(grad_y, g);
        tile.clear_margins(squares);
        tile.clear_margins(through);
        tile.each([&](int j, int p) { squares[p] = a[j] * a[j]; });
        tile.each([&](int j, int p) {
            const float q = norm.k + norm.scale * tile.window_sum(squares + p);
            const float y = power<T>(q);
            g[j] *= y;
            through[p] = g[j] * a[j] * (q * y * y) * (q * y * y);
        });
        tile.each([&](int j, int p) {
            g[j] -= 1.5f * norm.scale * a[j] * tile.window_sum(through + p);
        });
        tile.store(g, grad_x);
    }
}

} // namespace

#define EXPORT(T)                                                                                  \
    void forward_##T(const T* x, T* y, Norm norm) { forward(x, y, norm); }                         \
    void backward_##T(const T* x, const T* grad_y, T* grad_x, Norm norm) {                         \
        backward(x, grad_y, grad_x, norm);                                                         \
    }

using float32 = float;
extern "C" {
int most_channels() { return MOST_CHANNELS; }
EXPORT(float32)
EXPORT(bfloat16)
}
