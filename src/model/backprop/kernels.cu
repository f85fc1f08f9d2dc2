// Between the matrix products of training, forward and backward. Numbers are bf16 in memory and f32 in registers; every
// sum has one order, so gradients have the same bits every time.

extern "C" __global__ void __launch_bounds__(BLOCK(HIDDEN))
rms_norm(const u16* x, const u16* weight, u16* out, int out_stride) {
    __shared__ float scratch[32];
    const long row = blockIdx.x;
    const int at = 8 * threadIdx.x;
    const bool in = at < HIDDEN;
    float v[8] = {}, w[8];
    if (in) unpack8(*(const uint4*)(x + row * HIDDEN + at), v);
    float squares = 0.f;
    #pragma unroll
    for (int i = 0; i < 8; i++) squares += v[i] * v[i];
    const float factor = rsqrtf(block_sum(squares, scratch) / HIDDEN + EPS);
    if (in) {
        unpack8(*(const uint4*)(weight + at), w);
        #pragma unroll
        for (int i = 0; i < 8; i++) v[i] = w[i] * rounded(v[i] * factor);
        *(uint4*)(out + row * out_stride + at) = pack8(v);
    }
}

// Rows that a block takes one after the other: the next is on its way while one is computed.
#define ROWS 8

// middle = base + y; out = norm(middle) · weight.
extern "C" __global__ void __launch_bounds__(BLOCK(HIDDEN))
add_and_norm(const u16* __restrict__ base, const u16* __restrict__ y, int rows, const u16* __restrict__ weight,
             u16* __restrict__ middle, u16* __restrict__ out, int out_stride) {
    __shared__ float scratch[ROWS][32];
    const int at = 8 * threadIdx.x;
    const bool in = at < HIDDEN;
    float w[8];
    if (in) unpack8(*(const uint4*)(weight + at), w);
    const long begin = (long)blockIdx.x * ROWS, end = min(begin + ROWS, (long)rows);
    uint4 next_base = make_uint4(0, 0, 0, 0), next_y = next_base;
    auto load = [&](long row) {
        if (!in || row >= end) return;
        next_base = *(const uint4*)(base + row * HIDDEN + at);
        next_y = *(const uint4*)(y + row * HIDDEN + at);
    };
    load(begin);
    for (long row = begin; row < end; row++) {
        float v[8], add[8];
        unpack8(next_base, v);
        unpack8(next_y, add);
        load(row + 1);
        float squares = 0.f;
        #pragma unroll
        for (int k = 0; k < 8; k++) v[k] = rounded(v[k] + add[k]), squares += v[k] * v[k];
        if (in) *(uint4*)(middle + row * HIDDEN + at) = pack8(v);
        const float factor = rsqrtf(block_sum(squares, scratch[row - begin]) / HIDDEN + EPS);
        if (in) {
            #pragma unroll
            for (int k = 0; k < 8; k++) v[k] = w[k] * rounded(v[k] * factor);
            *(uint4*)(out + row * out_stride + at) = pack8(v);
        }
    }
}

// d_x = more + r · (w ∘ d_y) − x · r³ / n · Σ (w ∘ d_y ∘ x). `more` may be null, or be d_x itself; both have this stride.
// The norm itself takes the place of d_y.
extern "C" __global__ void __launch_bounds__(BLOCK(HIDDEN))
rms_norm_backward(u16* d_y, const u16* x, const u16* weight, const u16* more, u16* d_x, int stride) {
    __shared__ float scratch[2][32];
    const long row = blockIdx.x, place = row * HIDDEN + 8 * threadIdx.x, wide = row * stride + 8 * threadIdx.x;
    const int at = 8 * threadIdx.x;
    const bool in = at < HIDDEN;
    float v[8] = {}, d[8] = {}, w[8], add[8] = {};
    if (in) {
        unpack8(*(const uint4*)(x + place), v);
        unpack8(*(const uint4*)(d_y + place), d);
        unpack8(*(const uint4*)(weight + at), w);
        if (more) unpack8(*(const uint4*)(more + wide), add);
        #pragma unroll
        for (int i = 0; i < 8; i++) d[i] *= w[i];
    }
    float squares = 0.f, along = 0.f;
    #pragma unroll
    for (int i = 0; i < 8; i++) squares += v[i] * v[i], along += d[i] * v[i];
    squares = block_sum(squares, scratch[0]);
    along = block_sum(along, scratch[1]);
    const float r = rsqrtf(squares / HIDDEN + EPS), share = along / HIDDEN * r * r;
    if (in) {
        #pragma unroll
        for (int i = 0; i < 8; i++) {
            d[i] = add[i] + r * (d[i] - v[i] * share);
            v[i] = w[i] * rounded(v[i] * r);
        }
        *(uint4*)(d_x + wide) = pack8(d);
        *(uint4*)(d_y + place) = pack8(v);
    }
}

// Rotation turns number d with number d + HEAD_DIM / 2. A lane has four neighbours of the first half of a head and their
// partners, so nothing is exchanged, and a head is LANES lanes.
#define HALF (HEAD_DIM / 2)
#define LANES (HEAD_DIM / 8)

DEVICE void load4(const u16* from, float* v) {
    const uint2 both = *(const uint2*)from;
    v[0] = low_half(both.x), v[1] = high_half(both.x), v[2] = low_half(both.y), v[3] = high_half(both.y);
}
DEVICE void load_halves(const u16* from, float* v) { load4(from, v), load4(from + HALF, v + 4); }
DEVICE void store_halves(u16* to, const float* v) {
    *(uint2*)to = make_uint2(pack(v[0], v[1]), pack(v[2], v[3]));
    *(uint2*)(to + HALF) = make_uint2(pack(v[4], v[5]), pack(v[6], v[7]));
}
DEVICE float head_sum(float v) {
    #pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) v += __shfl_xor_sync(~0u, v, step);
    return v;
}

// Where a lane is among rows of HEAD_COUNT heads: COUNT rows from `row`, four numbers from `d` of `head`.
template <int HEAD_COUNT, int COUNT>
struct Place {
    int row, head, d;
    DEVICE Place() {
        const int slot = blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES;
        head = slot % HEAD_COUNT, row = slot / HEAD_COUNT * COUNT, d = 4 * (threadIdx.x % LANES);
    }
};

// Rows whose numbers are on their way together in `rotate`.
#define TURNED_ROWS 4

// Norms on heads and rotation of queries and keys. tables (positions, HALF).
extern "C" __global__ void __launch_bounds__(256)
rotate(const u16* __restrict__ qkv, int rows, const u16* __restrict__ q_norm, const u16* __restrict__ k_norm,
       const u16* __restrict__ cosines, const u16* __restrict__ sines, const int* __restrict__ position,
       u16* __restrict__ q_out, u16* __restrict__ k_out) {
    const Place<HEADS + KV_HEADS, TURNED_ROWS> place;
    const int head = place.head, d = place.d;
#if QK_NORM
    float w[8];
    load_halves((head < HEADS ? q_norm : k_norm) + d, w);
#endif
    float all[TURNED_ROWS][8];
    int at[TURNED_ROWS];
    #pragma unroll
    for (int i = 0; i < TURNED_ROWS; i++) {
        const long row = min(place.row + i, rows - 1);
        load_halves(qkv + row * QKV + head * HEAD_DIM + d, all[i]);
        at[i] = position[row];
    }
    #pragma unroll
    for (int i = 0; i < TURNED_ROWS; i++) {
        const long row = place.row + i;
        float *v = all[i], c[4], s[4];
        load4(cosines + (long)at[i] * HALF + d, c);
        load4(sines + (long)at[i] * HALF + d, s);
#if QK_NORM
        float squares = 0.f;
        #pragma unroll
        for (int k = 0; k < 8; k++) squares += v[k] * v[k];
        const float factor = rsqrtf(head_sum(squares) / HEAD_DIM + EPS);
        #pragma unroll
        for (int k = 0; k < 8; k++) v[k] = rounded(w[k] * rounded(v[k] * factor));
#endif
        if (row >= rows) continue;
        #pragma unroll
        for (int k = 0; k < 4; k++) {
            const float first = v[k], second = v[k + 4];
            v[k] = rounded(first * c[k]) + rounded(-second * s[k]);
            v[k + 4] = rounded(second * c[k]) + rounded(first * s[k]);
        }
        u16* out = head < HEADS ? q_out + (row * HEADS + head) * HEAD_DIM : k_out + (row * KV_HEADS + head - HEADS) * HEAD_DIM;
        store_halves(out + d, v);
    }
}

// The way back of `rotate`, with the values' gradient put beside; rows of d_qkv lie `stride` apart. Keys and values have a
// row for every gathered key: those of row t are from[first[t]] to from[first[t + 1] - 1]; `first` is null where they were
// not gathered.
extern "C" __global__ void __launch_bounds__(256)
rotate_backward(const u16* __restrict__ qkv, int rows, const u16* __restrict__ q_norm, const u16* __restrict__ k_norm,
                const u16* __restrict__ cosines, const u16* __restrict__ sines, const int* __restrict__ position,
                const u16* __restrict__ d_q, const u16* __restrict__ d_k, const u16* __restrict__ d_v,
                const int* __restrict__ first, const int* __restrict__ from, u16* __restrict__ d_qkv, int stride) {
    const Place<HEADS + 2 * KV_HEADS, 1> place;
    const int head = place.head, d = place.d, n = head * HEAD_DIM + d;
    const long row = min(place.row, rows - 1);
    const bool query = head < HEADS, turned = head < HEADS + KV_HEADS;
    const u16* gradient = query ? d_q : turned ? d_k : d_v;
    const int heads = query ? HEADS : KV_HEADS, own = query ? head : (head - HEADS) % KV_HEADS;
    const u16* column = gradient + own * HEAD_DIM + d;
    float v[8] = {}, c[4] = {}, s[4] = {};
    if (turned) {
        const long at = (long)position[row] * HALF + d;
        load4(cosines + at, c);
        load4(sines + at, s);
    }
#if QK_NORM
    float x[8] = {}, w[8] = {};
    if (turned) {
        load_halves((query ? q_norm : k_norm) + d, w);
        load_halves(qkv + row * QKV + n, x);
    }
#endif
    if (first && !query) {
        // Of most rows one gathered row stems, the row itself.
        for (int i = first[row]; i < first[row + 1]; i++) {
            float more[8];
            load_halves(column + (long)from[i] * heads * HEAD_DIM, more);
            #pragma unroll
            for (int k = 0; k < 8; k++) v[k] += more[k];
        }
    } else {
        load_halves(column + row * heads * HEAD_DIM, v);
    }
    if (turned) {
        #pragma unroll
        for (int k = 0; k < 4; k++) {
            const float low = v[k], high = v[k + 4];
            v[k] = low * c[k] + high * s[k];
            v[k + 4] = high * c[k] - low * s[k];
        }
    }
#if QK_NORM
    // Other lanes of a warp whose head is one of values need these sums too.
    float squares = 0.f, along = 0.f;
    if (turned) {
        #pragma unroll
        for (int k = 0; k < 8; k++) v[k] *= w[k], squares += x[k] * x[k], along += v[k] * x[k];
    }
    squares = head_sum(squares), along = head_sum(along);
    if (turned) {
        const float r = rsqrtf(squares / HEAD_DIM + EPS), share = along / HEAD_DIM * r * r;
        #pragma unroll
        for (int k = 0; k < 8; k++) v[k] = r * (v[k] - x[k] * share);
    }
#endif
    if (place.row < rows) store_halves(d_qkv + row * stride + n, v);
}

DEVICE float sigmoid(float x) { return 1.f / (1.f + __expf(-x)); }

// silu(gate) ∘ up: rows of gate and up side by side, `stride` apart, to rows of FFN, `out_stride` apart.
extern "C" __global__ void __launch_bounds__(256)
gate_forward(const u16* __restrict__ wide, int stride, u16* __restrict__ out, int out_stride) {
    const int at = 8 * (blockIdx.y * blockDim.x + threadIdx.x);
    if (at >= FFN) return;
    const u16* own = wide + (long)blockIdx.x * stride + at;
    float g[8], u[8];
    unpack8(*(const uint4*)own, g);
    unpack8(*(const uint4*)(own + FFN), u);
    #pragma unroll
    for (int i = 0; i < 8; i++) u[i] *= g[i] * sigmoid(g[i]);
    *(uint4*)(out + (long)blockIdx.x * out_stride + at) = pack8(u);
}

// Gradients of gate and up take their place, and what they made takes the place of its gradient, (rows, FFN).
extern "C" __global__ void __launch_bounds__(256)
gate_backward(u16* wide, int stride, u16* d_act) {
    const int at = 8 * (blockIdx.y * blockDim.x + threadIdx.x);
    if (at >= FFN) return;
    uint4* gates = (uint4*)(wide + (long)blockIdx.x * stride + at);
    uint4* ups = (uint4*)(wide + (long)blockIdx.x * stride + FFN + at);
    uint4* acts = (uint4*)(d_act + (long)blockIdx.x * FFN + at);
    float g[8], u[8], d[8];
    unpack8(*gates, g);
    unpack8(*ups, u);
    unpack8(*acts, d);
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        const float s = sigmoid(g[i]), silu = g[i] * s;
        const float d_gate = d[i] * u[i] * s * (1.f + g[i] - silu), act = u[i] * silu;
        u[i] = d[i] * silu, g[i] = d_gate, d[i] = act;
    }
    *gates = pack8(g);
    *ups = pack8(u);
    *acts = pack8(d);
}

// out[t] = Σ x[rows[i]], i from first[t] to first[t + 1] - 1; columns in eights.
extern "C" __global__ void __launch_bounds__(256)
sum_rows(const u16* x, const int* first, const int* rows, u16* out, int columns) {
    const long row = blockIdx.x;
    const int at = 8 * (blockIdx.y * blockDim.x + threadIdx.x);
    if (at >= columns) return;
    float sum[8] = {}, v[8];
    for (int i = first[row]; i < first[row + 1]; i++) {
        unpack8(*(const uint4*)(x + (long)rows[i] * columns + at), v);
        #pragma unroll
        for (int k = 0; k < 8; k++) sum[k] += v[k];
    }
    *(uint4*)(out + row * columns + at) = pack8(sum);
}

// A softmax that is being summed: largest number, sum of exponentials, sum of exponentials times numbers.
struct Softmax {
    float most, sum, weighted;
    DEVICE void join(float most2, float sum2, float weighted2) {
        const float top = fmaxf(most, most2);
        const float a = most == top ? 1.f : __expf(most - top), b = most2 == top ? 1.f : __expf(most2 - top);
        most = top, sum = sum * a + sum2 * b, weighted = weighted * a + weighted2 * b;
    }
};

// A block a row of logits: log-probability of the token, entropy, logarithm of the sum. `temperature` may be null.
extern "C" __global__ void __launch_bounds__(512)
score(const u16* logits, const long* token, const float* temperature, float* logprob, float* entropy, float* sums) {
    __shared__ Softmax parts[16];
    const long row = blockIdx.x;
    const u16* own = logits + row * VOCAB;
    const float by = temperature ? 1.f / temperature[row] : 1.f;
    Softmax all = {-__int_as_float(0x7f800000), 0.f, 0.f};
    for (int at = 8 * threadIdx.x; at < VOCAB; at += 8 * blockDim.x) {
        float v[8], most;
        unpack8(*(const uint4*)(own + at), v);
        #pragma unroll
        for (int i = 0; i < 8; i++) v[i] *= by;
        most = v[0];
        #pragma unroll
        for (int i = 1; i < 8; i++) most = fmaxf(most, v[i]);
        if (most > all.most) {
            const float less = __expf(all.most - most);
            all.sum *= less, all.weighted *= less, all.most = most;
        }
        #pragma unroll
        for (int i = 0; i < 8; i++) {
            const float e = __expf(v[i] - all.most);
            all.sum += e, all.weighted += e * v[i];
        }
    }
    #pragma unroll
    for (int step = 16; step > 0; step /= 2)
        all.join(__shfl_xor_sync(~0u, all.most, step), __shfl_xor_sync(~0u, all.sum, step),
                 __shfl_xor_sync(~0u, all.weighted, step));
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = all;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < blockDim.x / 32; w++) all.join(parts[w].most, parts[w].sum, parts[w].weighted);
        const float total = all.most + __logf(all.sum);
        logprob[row] = widen(own[token[row]]) * by - total;
        entropy[row] = total - all.weighted / all.sum;
        sums[row] = total;
    }
}

// logits become gradient · (onehot(token) − softmax) / temperature.
extern "C" __global__ void __launch_bounds__(512)
score_backward(u16* logits, const long* token, const float* temperature, const float* sums, const float* gradient) {
    const long row = blockIdx.x;
    u16* own = logits + row * VOCAB;
    const float by = temperature ? 1.f / temperature[row] : 1.f, slope = gradient[row] * by, total = sums[row];
    const long which = token[row];
    for (int at = 8 * threadIdx.x; at < VOCAB; at += 8 * blockDim.x) {
        float v[8];
        unpack8(*(const uint4*)(own + at), v);
        #pragma unroll
        for (int i = 0; i < 8; i++) v[i] = slope * ((at + i == which ? 1.f : 0.f) - __expf(v[i] * by - total));
        *(uint4*)(own + at) = pack8(v);
    }
}
