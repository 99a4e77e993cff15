// Local response normalisation on the CPU: forward and backward, each in one pass over memory.
//
// A map is (outer, channels, inner), the channels being those of one tower: inner = 1 if they lie
// next to each other (channels-last), else the number of pixels. Work goes in tiles that stay in
// the cache, in float32 whatever the map's type.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

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

struct Norm {
    int64_t outer, inner;
    int channels;
    float scale, k;
    float floor; // smaller numbers are raised to it first: 0 is a ReLU, -infinity does nothing
    int threads;
};

constexpr int HALF = 2, ROWS = 8, PIXELS = 64, MOST_CHANNELS = 512;
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

// q ** -0.75 for q > 0: a guess from q's bits, within 5 %, and three of Newton's steps towards the
// root of y ** -4 = q ** 3. Square roots and divisions would take longer than the memory does.
inline float power(float q) {
    uint32_t bits;
    std::memcpy(&bits, &q, sizeof bits);
    bits = 0x6F14F000 - 3 * (bits / 4);
    float y;
    std::memcpy(&y, &bits, sizeof y);
    for (int i = 0; i < 3; i++) {
        const float root = q * y;
        y *= 1.25f - 0.25f * (root * root) * (root * y);
    }
    return y;
}

template <typename T>
void forward(const T* x, T* y, const Norm& norm) {
#pragma omp parallel for num_threads(norm.threads)
    for (int64_t index = 0; index < Tile::count(norm); index++) {
        const Tile tile(norm, index);
        float a[TILE], squares[PADDED];
        tile.load(x, a);
        tile.clear_margins(squares);
        tile.each([&](int j, int p) {
            a[j] = a[j] < norm.floor ? norm.floor : a[j]; // which a NaN is not
            squares[p] = a[j] * a[j];
        });
        tile.each([&](int j, int p) {
            a[j] *= power(norm.k + norm.scale * tile.window_sum(squares + p));
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
        tile.each([&](int j, int p) {
            a[j] = a[j] < norm.floor ? norm.floor : a[j]; // which a NaN is not
            squares[p] = a[j] * a[j];
        });
        tile.each([&](int j, int p) {
            const float q = norm.k + norm.scale * tile.window_sum(squares + p);
            const float y = power(q);
            g[j] *= y;
            through[p] = g[j] * a[j] * (q * y * y) * (q * y * y);
        });
        tile.each([&](int j, int p) {
            const float gradient = g[j] - 1.5f * norm.scale * a[j] * tile.window_sum(through + p);
            g[j] = a[j] > norm.floor ? gradient : 0;
        });
        tile.store(g, grad_x);
    }
}

} // namespace

extern "C" {
int most_channels() { return MOST_CHANNELS; }
void forward_float32(const float* x, float* y, Norm norm) { forward(x, y, norm); }
void forward_bfloat16(const bfloat16* x, bfloat16* y, Norm norm) { forward(x, y, norm); }
void backward_float32(const float* x, const float* g, float* out, Norm norm) { backward(x, g, out, norm); }
void backward_bfloat16(const bfloat16* x, const bfloat16* g, bfloat16* out, Norm norm) { backward(x, g, out, norm); }
}
