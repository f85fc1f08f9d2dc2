// What stands between the matrix products, each read and written once.

// residual += y (with its update), or residual = embedding of the row's token; out = norm(residual) · weight. Rows of out lie
// `stride` apart.
// `slots` (with `token` by slot) may be null: then tokens are by row.
extern "C" __global__ void __launch_bounds__(BLOCK(HIDDEN))
add_and_norm(const u16* embedding, const int* token, const int* slots, u16* residual, const void* y, const u16* weight, u16* out,
             int stride, Updates u) {
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
            unpack8_of(y, row * HIDDEN + at, u.wide, add);
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
                for (int i = 0; i < 8; i++) add[i] += u.scale[which] * more[i];
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
        *(uint4*)(out + row * stride + at) = pack8(v);
    }
}

// From the joint projection to rotated queries and the cache: update, norm on heads, rotation; a warp a head.
//   qkv (rows, QKV); tables (positions, HEAD_DIM / 2); update parts: q, k, v one after the other, each RANK wide.
//   place: page · PAGE + offset, -1 leaves the cache alone. k_out and v_out may be null.
extern "C" __global__ void __launch_bounds__(256)
rotate_and_store(const void* qkv, const u16* q_norm, const u16* k_norm, const u16* cosines, const u16* sines,
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
        if (u.wide) {
            #pragma unroll
            for (int i = 0; i < PER_LANE; i += 2) {
                const float2 both = *(const float2*)((const float*)qkv + row * QKV + n + i);
                v[i] = both.x, v[i + 1] = both.y;
            }
        } else {
            load_lane((const u16*)qkv + row * QKV + n, v);
        }
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
            for (int i = 0; i < PER_LANE; i++) v[i] += u.scale[which] * more[i];
        }
        #pragma unroll
        for (int i = 0; i < PER_LANE; i++) v[i] = rounded(v[i]);
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

// silu(gate) · up, (rows, 2 · FFN) → (rows, FFN), whose rows lie `stride` apart. A warp takes 16 rows by 32 columns, a thread
// eight columns in a row of rows g and g + 8; the updates come from the tensor cores, whose columns are permuted so that this holds for them too.
extern "C" __global__ void __launch_bounds__(128)
gate(const void* y, u16* out, int stride, int rows, Updates u) {
    const int lane = threadIdx.x % 32, g = lane / 4, j = lane % 4;
    const int block = 32 * (4 * blockIdx.x + threadIdx.x / 32), at = block + 8 * j;
    let_next_start();
    if (block >= FFN) return;
    const long row[2] = {16 * blockIdx.y + g, 16 * blockIdx.y + g + 8};
    // What does not come from the kernel before is read while that one still runs.
    u32 b[2][4];  // of gate and up: column 8 (g / 2) + 2t + g % 2, ranks 2j and 2j + 1
    auto load_b = [&](int which, int r) {
        const u16* from = u.b + ((long)which * u.outputs + block + 8 * (g / 2) + g % 2) * RANK + r + 2 * j;
        #pragma unroll
        for (int t = 0; t < 4; t++) b[0][t] = *(const u32*)(from + 2 * t * RANK), b[1][t] = *(const u32*)(from + (2l * t + FFN) * RANK);
    };
    if (u.b) load_b(0, 0);
    wait_for_previous();
    float gates[2][8], ups[2][8];
    #pragma unroll
    for (int h = 0; h < 2; h++)
        if (row[h] < rows) {
            unpack8_of(y, row[h] * 2 * FFN + at, u.wide, gates[h]);
            unpack8_of(y, row[h] * 2 * FFN + FFN + at, u.wide, ups[h]);
        }
    float more[2][4][4] = {};
    int own[2] = {-1, -1};
    if (u.b) {
        #pragma unroll
        for (int h = 0; h < 2; h++) own[h] = row[h] < rows ? u.adapter[row[h]] : -1;
        for (int which = 0; which < u.count; which++)
            #pragma unroll
            for (int r = 0; r < RANK; r += 8) {
                if (which > 0 || r > 0) load_b(which, r);
                #pragma unroll
                for (int part = 0; part < 2; part++) {
                    u32 low[2];
                    #pragma unroll
                    for (int h = 0; h < 2; h++)
                        low[h] = own[h] == which
                               ? *(const u32*)(u.xa + row[h] * u.stride + which * u.width + part * RANK + r + 2 * j) : 0;
                    #pragma unroll
                    for (int t = 0; t < 4; t++) multiply_eight(more[part][t], low[0], low[1], b[part][t]);
                }
            }
    }
    #pragma unroll
    for (int h = 0; h < 2; h++) {
        if (row[h] >= rows) continue;
        float *a = gates[h], *v = ups[h];
        const float scale = own[h] >= 0 ? u.scale[own[h]] : 0.f;
        #pragma unroll
        for (int e = 0; e < 8; e++) {
            if (own[h] >= 0) a[e] += scale * more[0][e / 2][2 * h + e % 2], v[e] += scale * more[1][e / 2][2 * h + e % 2];
            a[e] = rounded(a[e]), v[e] = rounded(v[e]);
            v[e] *= rounded(a[e] / (1.f + __expf(-a[e])));
        }
        *(uint4*)(out + row[h] * stride + at) = pack8(v);
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
