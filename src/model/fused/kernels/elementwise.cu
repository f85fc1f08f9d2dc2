// What stands between the matrix products, each read and written once.

#define BLOCK(n) (((n) / 8 + 31) / 32 * 32)  // a thread takes eight numbers

DEVICE float block_sum(float v, float* scratch) {
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
    __syncthreads();
    float sum = 0.f;
    for (int w = 0; w < blockDim.x / 32; w++) sum += scratch[w];
    return sum;
}

// residual += y (with its update), or residual = embedding of the row's token; out = norm(residual) · weight.
// `slots` (with `token` by slot) may be null: then tokens are by row.
extern "C" __global__ void __launch_bounds__(BLOCK(HIDDEN))
add_and_norm(const u16* embedding, const int* token, const int* slots, u16* residual, const u16* y, const u16* weight, u16* out,
     Updates u) {
    __shared__ float scratch[32];
    const long row = blockIdx.x;
    const int at = 8 * threadIdx.x;
    const bool in = at < HIDDEN;
    // Nothing overtakes the first kernel of a step; later ones read the constants while the kernel before still runs.
    if (embedding) wait_for_previous();
    let_next_start();
    const int which = u.b ? u.adapter[row] : -1;
    const u16* b = u.b + ((long)(which < 0 ? 0 : which) * u.outputs + at) * RANK;
    uint4 w = make_uint4(0, 0, 0, 0), first_b[8];
    if (in) {
        w = *(const uint4*)(weight + at);
        if (which >= 0)
            #pragma unroll
            for (int i = 0; i < 8; i++) first_b[i] = *(const uint4*)(b + i * RANK);
    }
    wait_for_previous();
    float v[8] = {};
    if (in) {
        if (embedding) {
            const int slot = slots ? slots[row] : row;
            const long id = slot >= 0 ? token[slot] : 0;
            unpack8(*(const uint4*)(embedding + id * HIDDEN + at), v);
        } else {
            float add[8];
            unpack8(*(const uint4*)(residual + row * HIDDEN + at), v);
            unpack8(*(const uint4*)(y + row * HIDDEN + at), add);
            if (which >= 0) {
                const u16* xa = u.xa + row * u.stride + which * u.width;
                float more[8] = {};
                #pragma unroll
                for (int r = 0; r < RANK; r += 8) {
                    float low[8], values[8];
                    unpack8(*(const uint4*)(xa + r), low);
                    #pragma unroll
                    for (int i = 0; i < 8; i++) {
                        unpack8(r == 0 ? first_b[i] : *(const uint4*)(b + i * RANK + r), values);
                        #pragma unroll
                        for (int k = 0; k < 8; k++) more[i] += values[k] * low[k];
                    }
                }
                #pragma unroll
                for (int i = 0; i < 8; i++) add[i] = rounded(add[i] + u.scale[which] * more[i]);
            }
            #pragma unroll
            for (int i = 0; i < 8; i++) v[i] = rounded(v[i] + add[i]);
        }
        *(uint4*)(residual + row * HIDDEN + at) = pack8(v);
    }
    float squares = 0.f;
    #pragma unroll
    for (int i = 0; i < 8; i++) squares += v[i] * v[i];
    const float factor = rsqrtf(block_sum(squares, scratch) / HIDDEN + EPS);
    if (in) {
        float by[8];
        unpack8(w, by);
        #pragma unroll
        for (int i = 0; i < 8; i++) v[i] = by[i] * rounded(v[i] * factor);
        *(uint4*)(out + row * HIDDEN + at) = pack8(v);
    }
}

#define PER_LANE (HEAD_DIM / 32)

DEVICE void load_lane(const u16* from, float* v) {
    #pragma unroll
    for (int i = 0; i < PER_LANE; i += 2) {
        const u32 both = *(const u32*)(from + i);
        v[i] = low_half(both), v[i + 1] = high_half(both);
    }
}
DEVICE void store_lane(u16* to, const float* v) {
    #pragma unroll
    for (int i = 0; i < PER_LANE; i += 2) *(u32*)(to + i) = pack(v[i], v[i + 1]);
}

// From the joint projection to rotated queries and the cache: update, norm on heads, rotation; a warp a head.
//   qkv (rows, QKV); tables (positions, HEAD_DIM / 2); update parts: q, k, v one after the other, each RANK wide.
//   place: page · PAGE + offset, -1 leaves the cache alone. k_out and v_out may be null.
extern "C" __global__ void __launch_bounds__(256)
rotate_and_store(const u16* qkv, const u16* q_norm, const u16* k_norm, const u16* cosines, const u16* sines,
                 const int* position, const int* place, u16* q_out, u16* k_out, u16* v_out, u16* key_cache,
                 u16* value_cache, Updates u) {
    const long row = blockIdx.x;
    const int lane = threadIdx.x % 32, d = PER_LANE * lane;
    const int head = blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32;
    if (head >= HEADS + 2 * KV_HEADS) return;
    const int part = head < HEADS ? 0 : head < HEADS + KV_HEADS ? 1 : 2, n = head * HEAD_DIM + d;
    // What does not come from the kernel before is read while that one still runs.
    const int p = position[row], cell = place ? place[row] : -1, which = u.b ? u.adapter[row] : -1;
    const u16* b = u.b + ((long)(which < 0 ? 0 : which) * u.outputs + n) * RANK;
    uint4 first_b[PER_LANE];
    if (which >= 0)
        #pragma unroll
        for (int i = 0; i < PER_LANE; i++) first_b[i] = *(const uint4*)(b + i * RANK);
    wait_for_previous();
    let_next_start();
    if (p < 0) return;
    {
        float v[PER_LANE];
        load_lane(qkv + row * QKV + n, v);
        if (which >= 0) {
            const u16* xa = u.xa + row * u.stride + which * u.width + part * RANK;
            float more[PER_LANE] = {};
            #pragma unroll
            for (int r = 0; r < RANK; r += 8) {
                float low[8], values[8];
                unpack8(*(const uint4*)(xa + r), low);
                #pragma unroll
                for (int i = 0; i < PER_LANE; i++) {
                    unpack8(r == 0 ? first_b[i] : *(const uint4*)(b + i * RANK + r), values);
                    #pragma unroll
                    for (int k = 0; k < 8; k++) more[i] += values[k] * low[k];
                }
            }
            #pragma unroll
            for (int i = 0; i < PER_LANE; i++) v[i] = rounded(v[i] + u.scale[which] * more[i]);
        }
        const int kv = head - HEADS - (part == 2 ? KV_HEADS : 0);
        u16* cached = part == 0 || cell < 0 ? 0
                    : (part == 1 ? key_cache : value_cache) + (((long)(cell / PAGE) * KV_HEADS + kv) * PAGE + cell % PAGE) * HEAD_DIM;
        if (part < 2) {
#if QK_NORM
            float squares = 0.f, w[PER_LANE];
            #pragma unroll
            for (int i = 0; i < PER_LANE; i++) squares += v[i] * v[i];
            const float factor = rsqrtf(warp_sum(squares) / HEAD_DIM + EPS);
            load_lane((part == 0 ? q_norm : k_norm) + d, w);
            #pragma unroll
            for (int i = 0; i < PER_LANE; i++) v[i] = rounded(w[i] * rounded(v[i] * factor));
#endif
            const int pair = d % (HEAD_DIM / 2);
            float c[PER_LANE], s[PER_LANE];
            load_lane(cosines + (long)p * (HEAD_DIM / 2) + pair, c);
            load_lane(sines + (long)p * (HEAD_DIM / 2) + pair, s);
            #pragma unroll
            for (int i = 0; i < PER_LANE; i++) {
                const float other = __shfl_xor_sync(~0u, v[i], 16);
                v[i] = rounded(v[i] * c[i]) + rounded((lane < 16 ? -other : other) * s[i]);
            }
        }
        if (part == 0) store_lane(q_out + (row * HEADS + head) * HEAD_DIM + d, v);
        if (part == 1 && k_out) store_lane(k_out + (row * KV_HEADS + kv) * HEAD_DIM + d, v);
        if (part == 2 && v_out) store_lane(v_out + (row * KV_HEADS + kv) * HEAD_DIM + d, v);
        if (cached) store_lane(cached + d, v);
    }
}

#define ROWS_A_BLOCK 8

// silu(gate) · up, (rows, 2 · FFN) → (rows, FFN). A thread takes two columns of eight rows, so that a B matrix is read
// once for them.
extern "C" __global__ void __launch_bounds__(128)
gate(const u16* y, u16* out, int rows, Updates u) {
    const int at = 2 * (blockIdx.x * blockDim.x + threadIdx.x), first = blockIdx.y * ROWS_A_BLOCK;
    if (at >= FFN) return;
    // What does not come from the kernel before is read while that one still runs.
    float b[4][8];  // gate and up of both columns, eight ranks
    int held = -1;
    auto hold = [&](int which, int r) {
        held = which;
        const u16* from = u.b + (long)which * u.outputs * RANK + r;
        #pragma unroll
        for (int e = 0; e < 4; e++) unpack8(*(const uint4*)(from + (long)(e / 2 * FFN + at + e % 2) * RANK), b[e]);
    };
    let_next_start();
    if (u.b && u.adapter[first] >= 0) hold(u.adapter[first], 0);
    wait_for_previous();
    u32 g[ROWS_A_BLOCK], v[ROWS_A_BLOCK];
    #pragma unroll
    for (int i = 0; i < ROWS_A_BLOCK; i++) {
        const bool in = first + i < rows;
        g[i] = in ? *(const u32*)(y + (first + i) * 2l * FFN + at) : 0;
        v[i] = in ? *(const u32*)(y + (first + i) * 2l * FFN + FFN + at) : 0;
    }
    float added[ROWS_A_BLOCK][4] = {};
    if (u.b)
        #pragma unroll
        for (int r = 0; r < RANK; r += 8) {
            if (r > 0) held = -1;
            #pragma unroll
            for (int i = 0; i < ROWS_A_BLOCK; i++) {
                const int which = first + i < rows ? u.adapter[first + i] : -1;
                if (which < 0) continue;
                if (which != held) hold(which, r);
                const u16* xa = u.xa + (long)(first + i) * u.stride + which * u.width + r;
                #pragma unroll
                for (int part = 0; part < 2; part++) {
                    float low[8];
                    unpack8(*(const uint4*)(xa + part * RANK), low);
                    #pragma unroll
                    for (int e = 0; e < 2; e++)
                        #pragma unroll
                        for (int k = 0; k < 8; k++) added[i][2 * part + e] += b[2 * part + e][k] * low[k];
                }
            }
        }
    #pragma unroll
    for (int i = 0; i < ROWS_A_BLOCK; i++) {
        if (first + i >= rows) break;
        float a = low_half(g[i]), e = high_half(g[i]), c = low_half(v[i]), d = high_half(v[i]);
        const int which = u.b ? u.adapter[first + i] : -1;
        if (which >= 0) {
            const float s = u.scale[which];
            a = rounded(a + s * added[i][0]), e = rounded(e + s * added[i][1]);
            c = rounded(c + s * added[i][2]), d = rounded(d + s * added[i][3]);
        }
        *(u32*)(out + (long)(first + i) * FFN + at) =
            pack(c * rounded(a / (1.f + __expf(-a))), d * rounded(e / (1.f + __expf(-e))));
    }
}

// Keys and values of whole sequences out of the cache, packed: (tokens, KV_HEADS, HEAD_DIM); place as above.
extern "C" __global__ void __launch_bounds__(256)
gather(const u16* key_cache, const u16* value_cache, const int* place, int tokens, u16* keys, u16* values) {
    const int vectors = KV_HEADS * HEAD_DIM / 8;
    for (long i = blockIdx.x * (long)blockDim.x + threadIdx.x; i < (long)tokens * vectors; i += (long)gridDim.x * blockDim.x) {
        const int token = i / vectors, e = 8 * (i % vectors), head = e / HEAD_DIM, d = e % HEAD_DIM, cell = place[token];
        const long from = (((long)(cell / PAGE) * KV_HEADS + head) * PAGE + cell % PAGE) * HEAD_DIM + d;
        ((uint4*)keys)[i] = *(const uint4*)(key_cache + from);
        ((uint4*)values)[i] = *(const uint4*)(value_cache + from);
    }
}

// Changes to the tables of pages: triples (slot, index, page).
extern "C" __global__ void write_pages(int* pages, int max_pages, const int* changes, int count) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
        pages[(long)changes[3 * i] * max_pages + changes[3 * i + 1]] = changes[3 * i + 2];
}
