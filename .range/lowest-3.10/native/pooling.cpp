// ReLU, local response normalisation and overlapping max pooling on the CPU, forward and backward,
// each in one pass over memory. Forward keeps the place of each maximum; backward recomputes all
// else. Maps are channels-last.
//
// The buffers in the cache hold float32, with HALF zeros on either side of each tower's channels,
// so that loops over many channels sum neighbours without testing where a tower ends.

#include "arithmetic.h"

#include <algorithm>
#include <vector>

namespace {

constexpr int SIDE = 3, STRIDE = 2; // of a pooling window
constexpr int HALF = 2; // channels that a normalisation reads on either side
constexpr int BLOCK = 8; // pixels that are normalised together, in the smallest cache

struct Maps { // (batch, height, width, channels); a tower's channels are adjacent
    int64_t batch;
    int height, width, channels, towers;
    float scale, k;
    int normalize, threads;

    int pixel() const { return channels + 2 * HALF * towers; } // with the zeros
    int windows() const { return (width - SIDE) / STRIDE + 1; } // in a row
    int pooled_rows() const { return (height - SIDE) / STRIDE + 1; }
    int pooled_row() const { return windows() * channels; }
    int read() const { return (pooled_rows() - 1) * STRIDE + SIDE; } // rows; one may be left over
    int64_t image() const { return int64_t(height) * width * channels; }
    int64_t pooled_image() const { return int64_t(pooled_rows()) * pooled_row(); }
};

struct Row { // of padded pixels, and HALF zeros before and after them
    std::vector<float> numbers;
    Row(const Maps& maps, int pixels) : numbers(pixels * maps.pixel() + 2 * HALF) {}
    operator float*() { return numbers.data() + HALF; }
};

// Call each(index in memory, index in a Row) for the first channel of every tower and pixel.
template <typename Each>
void each_tower(const Maps& maps, int pixels, Each each) {
    const int tower = maps.channels / maps.towers;
    for (int i = 0; i < pixels * maps.towers; i++) each(i * tower, i * (tower + 2 * HALF) + HALF);
}

template <typename T>
void load(const T* memory, float* row, int pixels, const Maps& maps) {
    each_tower(maps, pixels, [=, tower = maps.channels / maps.towers](int from, int to) {
        for (int c = 0; c < tower; c++) row[to + c] = memory[from + c];
    });
}

template <typename T>
void store(const float* row, T* memory, int pixels, const Maps& maps) {
    each_tower(maps, pixels, [=, tower = maps.channels / maps.towers](int to, int from) {
        for (int c = 0; c < tower; c++) memory[to + c] = row[from + c];
    });
}

// Call each(first pixel, pixels) for every block of a row.
template <typename Each>
void each_block(const Maps& maps, Each each) {
    for (int start = 0; start < maps.width; start += BLOCK)
        each(start, std::min(BLOCK, maps.width - start));
}

inline float rectified(float value) { return value < 0 ? 0 : value; } // a NaN stays

inline float window_sum(const float* at) { return at[-2] + at[-1] + at[0] + at[1] + at[2]; }

inline bool exceeds(float a, float b) { return (a > b) | (a != a); } // NaN exceeds all

// --- Forward -------------------------------------------------------------------------------------

template <typename T, bool NORMALIZE>
class Forward { // with a thread's buffers
    const Maps maps;
    Row y, squares;
    // For the last three rows: the largest number in each window, and its column.
    std::vector<Row> largest, column;
    Row pooled, place;

  public:
    explicit Forward(const Maps& maps)
        : maps(maps), y(maps, maps.width), squares(maps, BLOCK),
          largest(SIDE, Row(maps, maps.windows())), column(largest), pooled(largest[0]),
          place(pooled) {}

    void image(const T* x, T* out, uint8_t* places) {
        for (int r = 0; r < maps.read(); r++) {
            read(x + int64_t(r) * maps.width * maps.channels);
            pool_across(largest[r % SIDE], column[r % SIDE]);
            if (r < STRIDE || r % STRIDE != 0) continue;
            pool_down(r - STRIDE);
            store(pooled, out, maps.windows(), maps);
            store(place, places, maps.windows(), maps);
            out += maps.pooled_row();
            places += maps.pooled_row();
        }
    }

  private:
    void read(const T* x) {
        each_block(maps, [&](int start, int pixels) {
            float *a = y + start * maps.pixel(), *square = squares;
            const int count = pixels * maps.pixel();
            load(x + start * maps.channels, a, pixels, maps);
#pragma omp simd
            for (int i = 0; i < count; i++) {
                a[i] = rectified(a[i]);
                square[i] = a[i] * a[i];
            }
            if (!NORMALIZE) return;
#pragma omp simd
            for (int i = 0; i < count; i++)
                a[i] *= power<T>(maps.k + maps.scale * window_sum(square + i));
        });
    }

    void pool_across(float* largest, float* column) {
        const int pixel = maps.pixel();
        const float* in = y;
        for (int window = 0; window < maps.windows(); window++) {
#pragma omp simd
            for (int c = 0; c < pixel; c++) {
                const float first = in[c], second = in[c + pixel], third = in[c + 2 * pixel];
                const float two = exceeds(second, first) ? second : first;
                const float of_two = exceeds(second, first) ? 1 : 0;
                largest[c] = exceeds(third, two) ? third : two;
                column[c] = exceeds(third, two) ? 2 : of_two;
            }
            in += STRIDE * pixel;
            largest += pixel;
            column += pixel;
        }
    }

    void pool_down(int top) {
        const float* rows[SIDE];
        const float* columns[SIDE];
        for (int i = 0; i < SIDE; i++) {
            rows[i] = largest[(top + i) % SIDE];
            columns[i] = column[(top + i) % SIDE];
        }
        float *out = pooled, *place_ = place;
#pragma omp simd
        for (int i = 0; i < maps.windows() * maps.pixel(); i++) {
            const float first = rows[0][i], second = rows[1][i], third = rows[2][i];
            const float two = exceeds(second, first) ? second : first;
            const float of_two = exceeds(second, first) ? SIDE + columns[1][i] : columns[0][i];
            out[i] = exceeds(third, two) ? third : two;
            place_[i] = exceeds(third, two) ? 2 * SIDE + columns[2][i] : of_two;
        }
    }
};

// --- Backward ------------------------------------------------------------------------------------

template <typename T, bool NORMALIZE>
class Backward { // with a thread's buffers
    struct Window { // that covers a pixel, and the pixel's place in it
        const T* grad;
        const uint8_t* places;
        int place;
    };

    const Maps maps;
    Row a, grad, ratio, near; // of a block
    std::vector<float> sums;
    std::vector<T> no_grad;
    std::vector<uint8_t> nowhere;

  public:
    explicit Backward(const Maps& maps)
        : maps(maps), a(maps, BLOCK), grad(a), ratio(a), near(a), sums(BLOCK * maps.channels),
          no_grad(maps.channels, T(0.0f)), nowhere(maps.channels, SIDE * SIDE) {}

    void image(const T* x, const T* grad_out, const uint8_t* places, T* grad_x) {
        for (int r = 0; r < maps.height; r++)
            each_block(maps, [&](int start, int pixels) {
                for (int i = 0; i < pixels; i++)
                    unpool(grad_out, places, r, start + i, &sums[i * maps.channels]);
                load(sums.data(), grad, pixels, maps);
                const int64_t at = (int64_t(r) * maps.width + start) * maps.channels;
                block(x + at, grad_x + at, pixels);
            });
    }

  private:
    // Sum a pixel's gradients, from those of its one, two or four windows whose maximum it is.
    void unpool(const T* grad_out, const uint8_t* places, int row, int column, float* sum) {
        Window windows[4];
        int count = 0;
        for (int down = row % STRIDE; down < SIDE; down += STRIDE)
            for (int over = column % STRIDE; over < SIDE; over += STRIDE) {
                const int r = (row - down) / STRIDE, c = (column - over) / STRIDE;
                const bool exists = row >= down && r < maps.pooled_rows() && column >= over &&
                                    c < maps.windows();
                const int64_t at = (int64_t(r) * maps.windows() + c) * maps.channels;
                windows[count++] = {exists ? grad_out + at : no_grad.data(),
                                    exists ? places + at : nowhere.data(), down * SIDE + over};
            }
        if (count == 4) add<4>(windows, sum);
        if (count == 2) add<2>(windows, sum);
        if (count == 1) add<1>(windows, sum);
    }

    template <int COUNT>
    void add(const Window* windows, float* sum) {
#pragma omp simd
        for (int c = 0; c < maps.channels; c++) {
            float total = 0;
#pragma GCC unroll 4
            for (int i = 0; i < COUNT; i++) {
                const float g = windows[i].grad[c];
                total += windows[i].places[c] == windows[i].place ? g : 0;
            }
            sum[c] = total;
        }
    }

    // grad_x = grad ratio - 1.5 scale a * (the sum over neighbours of grad a q^-1.75)
    void block(const T* x, T* grad_x, int pixels) {
        float *g = grad, *a_ = a, *near_ = near;
        const int count = pixels * maps.pixel();
        load(x, a_, pixels, maps);
#pragma omp simd
        for (int i = 0; i < count; i++) {
            a_[i] = rectified(a_[i]);
            near_[i] = a_[i] * a_[i];
        }
        if (NORMALIZE) normalize(g, count);
#pragma omp simd
        for (int i = 0; i < count; i++) g[i] = a_[i] > 0 ? g[i] : 0;
        store(g, grad_x, pixels, maps);
    }

    void normalize(float* g, int count) {
        float *a_ = a, *q_ = ratio, *near_ = near;
#pragma omp simd
        for (int i = 0; i < count; i++) q_[i] = maps.k + maps.scale * window_sum(near_ + i);
#pragma omp simd
        for (int i = 0; i < count; i++) {
            const float y = power<T>(q_[i]), root = q_[i] * y * y; // root: q ** -0.5
            g[i] *= y;
            near_[i] = g[i] * a_[i] * root * root;
        }
        const float factor = 1.5f * maps.scale;
#pragma omp simd
        for (int i = 0; i < count; i++) g[i] -= factor * a_[i] * window_sum(near_ + i);
    }
};

// --- All images ----------------------------------------------------------------------------------

template <typename T, bool NORMALIZE>
void forward(const T* x, T* out, uint8_t* places, const Maps& maps) {
#pragma omp parallel num_threads(maps.threads)
    {
        Forward<T, NORMALIZE> one(maps);
#pragma omp for
        for (int64_t i = 0; i < maps.batch; i++) {
            const int64_t pooled = i * maps.pooled_image();
            one.image(x + i * maps.image(), out + pooled, places + pooled);
        }
    }
}

template <typename T, bool NORMALIZE>
void backward(const T* x, const T* grad_out, const uint8_t* places, T* grad_x, const Maps& maps) {
#pragma omp parallel num_threads(maps.threads)
    {
        Backward<T, NORMALIZE> one(maps);
#pragma omp for
        for (int64_t i = 0; i < maps.batch; i++) {
            const int64_t start = i * maps.image(), pooled = i * maps.pooled_image();
            one.image(x + start, grad_out + pooled, places + pooled, grad_x + start);
        }
    }
}

} // namespace

#define EXPORT(T)                                                                                  \
    void forward_##T(const T* x, T* out, uint8_t* places, Maps maps) {                             \
        (maps.normalize ? forward<T, true> : forward<T, false>)(x, out, places, maps);             \
    }                                                                                              \
    void backward_##T(const T* x, const T* grad, const uint8_t* places, T* grad_x, Maps maps) {    \
        (maps.normalize ? backward<T, true> : backward<T, false>)(x, grad, places, grad_x, maps);  \
    }

using float32 = float;
extern "C" {
EXPORT(float32)
EXPORT(bfloat16)
}
