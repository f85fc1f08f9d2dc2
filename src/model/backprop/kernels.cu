// Between the matrix products of training, forward and backward. Numbers are bf16 in memory and f32 in registers; every
// sum has one order, so gradients have the same bits every time.

extern "C" __global__ void __launch_bounds__(BLOCK(HIDDEN))
rms_norm(const u16* x, const u16* weight, u16* out) {
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
        *(uint4*)(out + row * HIDDEN + at) = pack8(v);
    }
}

// Rows that a block takes one after the other, so that what it holds of B serves all of them.
#define ROWS 8

// B's first eight ranks for some neighbouring columns; the others are read where they are needed.
template <int COLUMNS>
struct LowRank {
    const u16* m;
    int stride, rank;
    uint4 first[COLUMNS];
    DEVICE LowRank(const u16* m, int stride, int rank, bool any) : m(m), stride(stride), rank(rank) {
        #pragma unroll
        for (int i = 0; i < COLUMNS; i++) first[i] = any ? *(const uint4*)(m + (long)i * stride) : make_uint4(0, 0, 0, 0);
    }
    // v[column] += Σ_r z[r] m[column][r]
    DEVICE void add(float* v, const u16* z) const {
        for (int r = 0; r < rank; r += 8) {
            float low[8], values[8];
            unpack8(*(const uint4*)(z + r), low);
            #pragma unroll
            for (int i = 0; i < COLUMNS; i++) {
                unpack8(r == 0 ? first[i] : *(const uint4*)(m + (long)i * stride + r), values);
                #pragma unroll
                for (int k = 0; k < 8; k++) v[i] += values[k] * low[k];
            }
        }
    }
};

// middle = base + y + z bᵀ; out = norm(middle) · weight. y is in f32 where there is an update: z (rows, rank), b (HIDDEN,
// rank); null where there is none.
template <bool WIDE>
DEVICE void add_then_norm(const u16* __restrict__ base, const void* y, int rows, const u16* __restrict__ z,
                          const u16* __restrict__ b, int rank, const u16* __restrict__ weight, u16* __restrict__ middle, u16* out) {
    __shared__ float scratch[ROWS][32];
    const int at = 8 * threadIdx.x;
    const bool in = at < HIDDEN;
    const LowRank<WIDE ? 8 : 1> low(b + (long)at * rank, rank, rank, WIDE && in);
    float w[8];
    if (in) unpack8(*(const uint4*)(weight + at), w);
    const long begin = (long)blockIdx.x * ROWS, end = min(begin + ROWS, (long)rows);
    uint4 next_base = make_uint4(0, 0, 0, 0), next_y[WIDE ? 2 : 1] = {};
    auto load = [&](long row) {
        if (in && row < end) {
            next_base = *(const uint4*)(base + row * HIDDEN + at);
            #pragma unroll
            for (int i = 0; i < (WIDE ? 2 : 1); i++)
                next_y[i] = ((const uint4*)y)[(row * HIDDEN + at) / 8 * (WIDE ? 2 : 1) + i];
        }
    };
    load(begin);
    for (long row = begin; row < end; row++) {
        const long place = row * HIDDEN + at;
        float v[8], add[8];
        unpack8(next_base, v);
        if (WIDE) {
            #pragma unroll
            for (int i = 0; i < (WIDE ? 2 : 1); i++) {
                const uint4 four = next_y[i];
                add[4 * i] = __uint_as_float(four.x), add[4 * i + 1] = __uint_as_float(four.y);
                add[4 * i + 2] = __uint_as_float(four.z), add[4 * i + 3] = __uint_as_float(four.w);
            }
        } else {
            unpack8(next_y[0], add);
        }
        // On its way while this row is computed.
        load(row + 1);
        if (in) {
            if (WIDE) low.add(add, z + row * rank);
            #pragma unroll
            for (int k = 0; k < 8; k++) v[k] = rounded(v[k] + add[k]);
            *(uint4*)(middle + place) = pack8(v);
        }
        float squares = 0.f;
        #pragma unroll
        for (int k = 0; k < 8; k++) squares += v[k] * v[k];
        const float factor = rsqrtf(block_sum(squares, scratch[row - begin]) / HIDDEN + EPS);
        if (in) {
            #pragma unroll
            for (int k = 0; k < 8; k++) v[k] = w[k] * rounded(v[k] * factor);
            *(uint4*)(out + place) = pack8(v);
        }
    }
}

extern "C" __global__ void __launch_bounds__(BLOCK(HIDDEN))
add_and_norm(const u16* base, const u16* y, int rows, const u16* weight, u16* middle, u16* out) {
    add_then_norm<false>(base, y, rows, nullptr, nullptr, 0, weight, middle, out);
}

extern "C" __global__ void __launch_bounds__(BLOCK(HIDDEN))
add_and_norm_updated(const u16* base, const float* y, int rows, const u16* z, const u16* b, int rank, const u16* weight,
                     u16* middle, u16* out) {
    add_then_norm<true>(base, y, rows, z, b, rank, weight, middle, out);
}

// d_x = more + r · (w ∘ d_y) − x · r³ / n · Σ (w ∘ d_y ∘ x). `more` may be null, or be d_x itself. The norm itself takes
// the place of d_y.
extern "C" __global__ void __launch_bounds__(BLOCK(HIDDEN))
rms_norm_backward(u16* d_y, const u16* x, const u16* weight, const u16* more, u16* d_x) {
    __shared__ float scratch[2][32];
    const long row = blockIdx.x, place = row * HIDDEN + 8 * threadIdx.x;
    const int at = 8 * threadIdx.x;
    const bool in = at < HIDDEN;
    float v[8] = {}, d[8] = {}, w[8], add[8] = {};
    if (in) {
        unpack8(*(const uint4*)(x + place), v);
        unpack8(*(const uint4*)(d_y + place), d);
        unpack8(*(const uint4*)(weight + at), w);
        if (more) unpack8(*(const uint4*)(more + place), add);
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
        *(uint4*)(d_x + place) = pack8(d);
        *(uint4*)(d_y + place) = pack8(v);
    }
}

// What a lane turns by at a position.
struct Turn {
    float c[PER_LANE], s[PER_LANE];
    DEVICE Turn(const u16* cosines, const u16* sines, int position, int d) {
        const long at = (long)position * (HEAD_DIM / 2) + d % (HEAD_DIM / 2);
        load_lane(cosines + at, c);
        load_lane(sines + at, s);
    }
};

// Norms on heads and rotation of queries and keys; a warp a head. tables (positions, HEAD_DIM / 2).
extern "C" __global__ void __launch_bounds__(256)
rotate(const u16* __restrict__ qkv, int rows, const u16* __restrict__ q_norm, const u16* __restrict__ k_norm,
       const u16* __restrict__ cosines, const u16* __restrict__ sines, const int* __restrict__ position,
       u16* __restrict__ q_out, u16* __restrict__ k_out) {
    const int lane = threadIdx.x % 32, d = PER_LANE * lane;
    const int head = blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32, n = head * HEAD_DIM + d;
    if (head >= HEADS + KV_HEADS) return;
#if QK_NORM
    float w[PER_LANE];
    load_lane((head < HEADS ? q_norm : k_norm) + d, w);
#endif
    // All rows are on their way before the first is computed.
    float all[ROWS][PER_LANE];
    int at[ROWS];
    #pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const long row = min((long)blockIdx.x * ROWS + i, (long)rows - 1);
        load_lane(qkv + row * QKV + n, all[i]);
        at[i] = position[row];
    }
    #pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const long row = (long)blockIdx.x * ROWS + i;
        if (row >= rows) return;
        const Turn turn(cosines, sines, at[i], d);
        float* v = all[i];
#if QK_NORM
        float squares = 0.f;
        #pragma unroll
        for (int k = 0; k < PER_LANE; k++) squares += v[k] * v[k];
        const float factor = rsqrtf(warp_sum(squares) / HEAD_DIM + EPS);
        #pragma unroll
        for (int k = 0; k < PER_LANE; k++) v[k] = rounded(w[k] * rounded(v[k] * factor));
#endif
        #pragma unroll
        for (int k = 0; k < PER_LANE; k++) {
            const float other = __shfl_xor_sync(~0u, v[k], 16);
            v[k] = rounded(v[k] * turn.c[k]) + rounded((lane < 16 ? -other : other) * turn.s[k]);
        }
        u16* out = head < HEADS ? q_out + (row * HEADS + head) * HEAD_DIM : k_out + (row * KV_HEADS + head - HEADS) * HEAD_DIM;
        store_lane(out + d, v);
    }
}

// Rows of `rotate_backward`'s blocks: two tensors are on their way for each.
#define BACK_ROWS 4

// The way back of `rotate`, with the values' gradient put beside. Keys and values have a row for every gathered key:
// those of row t are from[first[t]] to from[first[t + 1] - 1]; `first` is null where they were not gathered.
extern "C" __global__ void __launch_bounds__(256)
rotate_backward(const u16* __restrict__ qkv, int rows, const u16* __restrict__ q_norm, const u16* __restrict__ k_norm,
                const u16* __restrict__ cosines, const u16* __restrict__ sines, const int* __restrict__ position,
                const u16* __restrict__ d_q, const u16* __restrict__ d_k, const u16* __restrict__ d_v,
                const int* __restrict__ first, const int* __restrict__ from, u16* __restrict__ d_qkv) {
    const int lane = threadIdx.x % 32, d = PER_LANE * lane;
    const int head = blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32, n = head * HEAD_DIM + d;
    if (head >= HEADS + 2 * KV_HEADS) return;
    const bool query = head < HEADS, turned = head < HEADS + KV_HEADS;
    const u16* gradient = query ? d_q : turned ? d_k : d_v;
    const int heads = query ? HEADS : KV_HEADS, own = query ? head : (head - HEADS) % KV_HEADS;
    const u16* column = gradient + own * HEAD_DIM + d;
    float all[BACK_ROWS][PER_LANE];
#if QK_NORM
    float inputs[BACK_ROWS][PER_LANE], w[PER_LANE];
    if (turned) load_lane((query ? q_norm : k_norm) + d, w);
#endif
    // Of most rows one gathered row stems, the row itself; so those are on their way together, and more are added after.
    int at[BACK_ROWS], place[BACK_ROWS], end[BACK_ROWS];
    #pragma unroll
    for (int i = 0; i < BACK_ROWS; i++) {
        const int row = min(blockIdx.x * BACK_ROWS + i, rows - 1);
        at[i] = position[row], place[i] = row, end[i] = row + 1;
        if (first && !query) place[i] = first[row], end[i] = first[row + 1];
#if QK_NORM
        if (turned) load_lane(qkv + (long)row * QKV + n, inputs[i]);
#endif
    }
    auto gathered = [&](int place, float* v) {
        const long row = first && !query ? from[place] : place;
        load_lane(column + row * heads * HEAD_DIM, v);
    };
    #pragma unroll
    for (int i = 0; i < BACK_ROWS; i++) {
        #pragma unroll
        for (int k = 0; k < PER_LANE; k++) all[i][k] = 0.f;
        if (place[i] < end[i]) gathered(place[i], all[i]);
    }
    #pragma unroll
    for (int i = 0; i < BACK_ROWS; i++) {
        for (int next = place[i] + 1; next < end[i]; next++) {
            float more[PER_LANE];
            gathered(next, more);
            #pragma unroll
            for (int k = 0; k < PER_LANE; k++) all[i][k] += more[k];
        }
    }
    #pragma unroll
    for (int i = 0; i < BACK_ROWS; i++) {
        const long row = (long)blockIdx.x * BACK_ROWS + i;
        if (row >= rows) return;
        float* v = all[i];
        if (turned) {
            const Turn turn(cosines, sines, at[i], d);
            #pragma unroll
            for (int k = 0; k < PER_LANE; k++) {
                const float other = __shfl_xor_sync(~0u, v[k], 16);
                v[k] = v[k] * turn.c[k] + (lane < 16 ? other : -other) * turn.s[k];
            }
#if QK_NORM
            float squares = 0.f, along = 0.f;
            const float* x = inputs[i];
            #pragma unroll
            for (int k = 0; k < PER_LANE; k++) v[k] *= w[k], squares += x[k] * x[k], along += v[k] * x[k];
            const float r = rsqrtf(warp_sum(squares) / HEAD_DIM + EPS), share = warp_sum(along) / HEAD_DIM * r * r;
            #pragma unroll
            for (int k = 0; k < PER_LANE; k++) v[k] = r * (v[k] - x[k] * share);
#endif
        }
        store_lane(d_qkv + row * QKV + n, v);
    }
}

DEVICE float sigmoid(float x) { return 1.f / (1.f + __expf(-x)); }

// A warp's tile of 16 rows by 32 columns: a lane has eight neighbouring columns in each of two rows.
struct Tile {
    long row[2];
    int block, at, rows;
    DEVICE Tile(int rows) : rows(rows) {
        const int lane = threadIdx.x % 32;
        block = 32 * (4 * blockIdx.x + threadIdx.x / 32);
        at = block + 8 * (lane % 4);
        row[0] = 16 * (long)blockIdx.y + lane / 4, row[1] = row[0] + 8;
    }
    // more += z mᵀ of this tile by the tensor cores; z (rows, stride), m (columns, stride), `rank` of their columns. The
    // tensor cores' columns are permuted so that a lane's are neighbours.
    DEVICE void add(float (*more)[4], const u16* z, const u16* m, int stride, int rank) const {
        const int g = threadIdx.x % 32 / 4, j = threadIdx.x % 4;
        const u16* from = m + (long)(block + 8 * (g / 2) + g % 2) * stride + 2 * j;
        for (int r = 0; r < rank; r += 8) {
            u32 low[2];
            #pragma unroll
            for (int h = 0; h < 2; h++) low[h] = row[h] < rows ? *(const u32*)(z + row[h] * stride + r + 2 * j) : 0;
            #pragma unroll
            for (int t = 0; t < 4; t++) multiply_eight(more[t], low[0], low[1], *(const u32*)(from + 2l * t * stride + r));
        }
    }
};

// silu(gate) ∘ up: (rows, 2 FFN) → (rows, FFN). With `y`, (rows, 2 FFN) in f32, gate and up are made of it first: z bᵀ is
// added, z (rows, rank), b (2 FFN, rank), and the sum written to `wide`.
extern "C" __global__ void __launch_bounds__(128)
gate_forward(u16* wide, u16* out, int rows, const float* y, const u16* z, const u16* b, int rank) {
    const Tile tile(rows);
    if (tile.block >= FFN) return;
    float g[2][8] = {}, u[2][8] = {};
    #pragma unroll
    for (int h = 0; h < 2; h++)
        if (tile.row[h] < rows) {
            const long at = tile.row[h] * 2 * FFN + tile.at;
            if (y) {
                unpack8_of(y, at, 1, g[h]);
                unpack8_of(y, at + FFN, 1, u[h]);
            } else {
                unpack8(*(const uint4*)(wide + at), g[h]);
                unpack8(*(const uint4*)(wide + at + FFN), u[h]);
            }
        }
    if (y) {
        float more[2][4][4] = {};
        tile.add(more[0], z, b, rank, rank);
        tile.add(more[1], z, b + (long)FFN * rank, rank, rank);
        #pragma unroll
        for (int h = 0; h < 2; h++) {
            #pragma unroll
            for (int i = 0; i < 8; i++) {
                g[h][i] = rounded(g[h][i] + more[0][i / 2][2 * h + i % 2]);
                u[h][i] = rounded(u[h][i] + more[1][i / 2][2 * h + i % 2]);
            }
            if (tile.row[h] >= rows) continue;
            *(uint4*)(wide + tile.row[h] * 2 * FFN + tile.at) = pack8(g[h]);
            *(uint4*)(wide + tile.row[h] * 2 * FFN + FFN + tile.at) = pack8(u[h]);
        }
    }
    #pragma unroll
    for (int h = 0; h < 2; h++) {
        if (tile.row[h] >= rows) continue;
        #pragma unroll
        for (int i = 0; i < 8; i++) u[h][i] *= g[h][i] * sigmoid(g[h][i]);
        *(uint4*)(out + tile.row[h] * FFN + tile.at) = pack8(u[h]);
    }
}

// Gradients of gate and up take their place, and what they made takes the place of its gradient. To that gradient is
// added d_low aᵀ: d_low (rows, down), a (FFN, down); null where the next projection has no update.
extern "C" __global__ void __launch_bounds__(128)
gate_backward(u16* wide, u16* d_act, int rows, const u16* d_low, const u16* a, int down) {
    const Tile tile(rows);
    if (tile.block >= FFN) return;
    float more[4][4] = {};
    if (d_low) tile.add(more, d_low, a, down, down);
    #pragma unroll
    for (int h = 0; h < 2; h++) {
        if (tile.row[h] >= rows) continue;
        float g[8], u[8], d[8];
        uint4* gates = (uint4*)(wide + tile.row[h] * 2 * FFN + tile.at);
        uint4* ups = (uint4*)(wide + tile.row[h] * 2 * FFN + FFN + tile.at);
        uint4* acts = (uint4*)(d_act + tile.row[h] * FFN + tile.at);
        unpack8(*gates, g);
        unpack8(*ups, u);
        unpack8(*acts, d);
        #pragma unroll
        for (int i = 0; i < 8; i++) {
            d[i] += more[i / 2][2 * h + i % 2];
            const float s = sigmoid(g[i]), silu = g[i] * s;
            const float d_gate = d[i] * u[i] * s * (1.f + g[i] - silu), act = u[i] * silu;
            u[i] = d[i] * silu, g[i] = d_gate, d[i] = act;
        }
        *gates = pack8(g);
        *ups = pack8(u);
        *acts = pack8(d);
    }
}

// out[t] = Σ x[rows[i]], i from first[t] to first[t + 1] - 1; columns in eights.
extern "C" __global__ void __launch_bounds__(256)
sum_rows(const u16* x, const int* first, const int* rows, u16* out, int columns) {
    const long row = blockIdx.y;
    const int at = 8 * (blockIdx.x * blockDim.x + threadIdx.x);
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
