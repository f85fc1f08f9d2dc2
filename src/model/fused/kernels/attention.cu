// One new token a row against the paged cache: split into chunks of keys, joined in the order of the chunks.
//
// One warp of a block fetches pages ahead, by bulk copies into a ring; four warps take them in turn. Keys are the rows
// of k·q and values the columns of vᵀ·p; the inner dimension of the one and the rows of the other may be permuted
// freely, so each thread takes 16 bytes in a row as a fragment. A layer's cache is (pages, KV_HEADS, PAGE, HEAD_DIM),
// keys and values apart.

#define KPARTS (HEAD_DIM / 32)
#define VPARTS (HEAD_DIM / 64)
#define PAGE_BYTES (PAGE * HEAD_DIM * 2)

DEVICE void multiply(float* d, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
// An 8 × 8 matrix of 16-bit numbers spread over a warp, transposed.
DEVICE u32 transposed(u32 v) {
    u32 t;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(t) : "r"(v));
    return t;
}

// How a context is cut: even chunks of about CHUNK keys. It depends on the context alone.
struct Cut {
    int pages, size, chunks;  // pages in all, pages a chunk

    DEVICE explicit Cut(int context) {
        pages = (context + PAGE - 1) / PAGE;
        chunks = (pages + CHUNK / PAGE / 2) / (CHUNK / PAGE);
        if (chunks < 1) chunks = 1;
        size = (pages + chunks - 1) / chunks;
        chunks = size > 0 ? (pages + size - 1) / size : 0;
    }
};
#define SIZES (CHUNK / PAGE * 3 / 2 + 2)

// What the step's rows are to do, made once for all layers: position and place of the new token, and the list of work,
// long chunks first.
//   slots (rows): which slot a row is; -1 none.   state of slots: active, length, adapter, pages (slots, max_pages)
//   work: row << 12 | chunk; part (rows): where a row's partial results begin
extern "C" __global__ void __launch_bounds__(1024)
plan(const int* slots, const int* active, const int* length, const int* slot_adapter, const int* pages, int max_pages,
     int rows, int* position, int* place, int* adapter, int* work, int* part, int* count, int* arrived) {
    __shared__ int totals[32], of_size[SIZES];
    wait_for_previous();
    let_next_start();
    const int row = threadIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (row < SIZES) of_size[row] = 0;
    __syncthreads();
    int p = -1;
    if (row < rows) {
        const int slot = slots[row];
        const bool on = slot >= 0 && active[slot];
        if (on) p = length[slot];
        position[row] = p;
        place[row] = on ? pages[(long)slot * max_pages + p / PAGE] * PAGE + p % PAGE : -1;
        adapter[row] = on ? slot_adapter[slot] : -1;
        for (int head = 0; head < KV_HEADS; head++) arrived[row * KV_HEADS + head] = 0;
    }
    const Cut cut(p + 1);
    if (cut.chunks) atomicAdd(&of_size[cut.size], cut.chunks);
    int until = cut.chunks;  // inclusive sum over rows
    for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(~0u, until, step);
        if (lane >= step) until += other;
    }
    if (lane == 31) totals[warp] = until;
    __syncthreads();
    for (int w = 0; w < warp; w++) until += totals[w];
    if (row < rows) part[row] = until - cut.chunks;
    if (threadIdx.x == 1023) *count = until;
    if (threadIdx.x == 0)
        for (int size = SIZES - 1, before = 0; size >= 0; size--) {
            const int here = of_size[size];
            of_size[size] = before, before += here;
        }
    __syncthreads();
    if (cut.chunks) {
        const int at = atomicAdd(&of_size[cut.size], cut.chunks);
        for (int chunk = 0; chunk < cut.chunks; chunk++) work[at + chunk] = row << 12 | chunk;
    }
}

// q (rows, HEADS, HEAD_DIM) → out, the same shape. partial: (parts, KV_HEADS, GROUP, HEAD_DIM + 2) in f32.
extern "C" __global__ void __launch_bounds__(32 * WARPS + 32, 3)
attend(const u16* q, const u16* keys, const u16* values, const int* slots, const int* position, const int* pages,
       int max_pages, const int* work, const int* part, const int* count, float* partial, int* arrived, float scale,
       u16* out) {
    extern __shared__ __align__(128) char ring[];  // RING pages: keys, values
    __shared__ float shared_out[WARPS][GROUP][HEAD_DIM];
    __shared__ float shared_top[WARPS][8], shared_sum[WARPS][8];
    __shared__ u64 barriers[2 * RING];
    __shared__ int is_last;
    const u32 full = shared_address(barriers), empty = full + 8 * RING, base = shared_address(ring);
    if (threadIdx.x == 0) {
        for (int i = 0; i < RING; i++) barrier_init(full + 8 * i, 1), barrier_init(empty + 8 * i, 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    let_next_start();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, j = lane % 4;
    // The list of work is older than the kernel before this one, and so are all keys but the newest page's.
    const int total = *count * KV_HEADS;
    if (warp == WARPS) {
        if (lane == 0) {
            bool waited = false;
            u32 n = 0;
            for (int item = blockIdx.x; item < total; item += gridDim.x) {
                const int head = item % KV_HEADS, packed = work[item / KV_HEADS], row = packed >> 12, chunk = packed & 4095;
                const Cut cut(position[row] + 1);
                const int* table = pages + (long)slots[row] * max_pages;
                const int to = (chunk + 1) * cut.size < cut.pages ? (chunk + 1) * cut.size : cut.pages;
                for (int page = chunk * cut.size; page < to; page++, n++) {
                    const u32 at = n % RING, bar = full + 8 * at, target = base + at * 2 * PAGE_BYTES;
                    if (n >= RING) barrier_wait(empty + 8 * at, (n / RING - 1) & 1);
                    if (!waited && page == cut.pages - 1) wait_for_previous(), waited = true;
                    const long from = ((long)table[page] * KV_HEADS + head) * PAGE * HEAD_DIM;
                    barrier_expect(bar, 2 * PAGE_BYTES);
                    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                                 ::"r"(target), "l"(keys + from), "n"(PAGE_BYTES), "r"(bar) : "memory");
                    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                                 ::"r"(target + PAGE_BYTES), "l"(values + from), "n"(PAGE_BYTES), "r"(bar) : "memory");
                }
            }
        }
        wait_for_previous();
        return;
    }
    wait_for_previous();
    const float unit = scale * 1.4426950408889634f;
    u32 n = 0;  // pages before this item
    for (int item = blockIdx.x; item < total; item += gridDim.x) {
        const int head = item % KV_HEADS, packed = work[item / KV_HEADS], row = packed >> 12, chunk = packed & 4095;
        const int context = position[row] + 1;
        const Cut cut(context);
        const int first = chunk * cut.size, count_here = min(cut.size, cut.pages - first);
        uint4 query[KPARTS];
        #pragma unroll
        for (int c = 0; c < KPARTS; c++)
            query[c] = g < GROUP ? *(const uint4*)(q + ((long)row * HEADS + head * GROUP + g) * HEAD_DIM + 32 * c + 8 * j)
                                 : make_uint4(0, 0, 0, 0);
        float sums[VPARTS][4][4] = {}, top[2] = {-1e30f, -1e30f}, weight[2] = {0.f, 0.f};
        for (int i = warp; i < count_here; i += WARPS) {
            const u32 at = (n + i) % RING;
            const int left = context - (first + i) * PAGE;
            const u16 *k = (const u16*)(ring + at * 2 * PAGE_BYTES), *v = k + PAGE * HEAD_DIM;
            barrier_wait(full + 8 * at, ((n + i) / RING) & 1);
            // (16 keys, 8 heads): keys g and g + 8, heads 2j and 2j + 1.
            float score[4] = {}, other[4] = {};
            #pragma unroll
            for (int c = 0; c < KPARTS; c++) {
                const uint4 a = *(const uint4*)(k + g * HEAD_DIM + 32 * c + 8 * j);
                const uint4 b = *(const uint4*)(k + (g + 8) * HEAD_DIM + 32 * c + 8 * j);
                multiply(score, a.x, b.x, a.y, b.y, query[c].x, query[c].y);
                multiply(other, a.z, b.z, a.w, b.w, query[c].z, query[c].w);
            }
            uint4 value[4][VPARTS];
            #pragma unroll
            for (int e = 0; e < 4; e++)
                #pragma unroll
                for (int h = 0; h < VPARTS; h++) {
                    // What lies behind the newest token is another text's, and may be no number: 0 · NaN is NaN.
                    const int at = 2 * j + e % 2 + 8 * (e / 2);
                    value[e][h] = at < left ? *(const uint4*)(v + at * HEAD_DIM + 64 * h + 8 * g) : make_uint4(0, 0, 0, 0);
                }
            float shrink[2];
            #pragma unroll
            for (int e = 0; e < 4; e++) score[e] = g + 8 * (e / 2) < left ? (score[e] + other[e]) * unit : -1e30f;
            #pragma unroll
            for (int e = 0; e < 2; e++) {
                float now = fmaxf(top[e], fmaxf(score[e], score[e + 2]));
                now = fmaxf(now, __shfl_xor_sync(~0u, now, 4));
                now = fmaxf(now, __shfl_xor_sync(~0u, now, 8));
                now = fmaxf(now, __shfl_xor_sync(~0u, now, 16));
                shrink[e] = exp2f(top[e] - now);
                top[e] = now;
                score[e] = exp2f(score[e] - now), score[e + 2] = exp2f(score[e + 2] - now);
                weight[e] = weight[e] * shrink[e] + score[e] + score[e + 2];  // this lane's keys alone
            }
            // The shuffles above came after every lane's reads of the keys; the values are read when all pass here.
            __syncwarp();
            if (lane == 0) barrier_arrive(empty + 8 * at);
            const u32 p0 = transposed(pack(score[0], score[1])), p1 = transposed(pack(score[2], score[3]));
            // (16 dimensions, 8 heads): row g is dimension 8g + 2t of the half, row g + 8 the next one.
            #pragma unroll
            for (int h = 0; h < VPARTS; h++)
                #pragma unroll
                for (int t = 0; t < 4; t++) {
                    float* s = sums[h][t];
                    s[0] *= shrink[0], s[1] *= shrink[1], s[2] *= shrink[0], s[3] *= shrink[1];
                    auto word = [&](const uint4& x) { return t == 0 ? x.x : t == 1 ? x.y : t == 2 ? x.z : x.w; };
                    const u32 a = word(value[0][h]), b = word(value[1][h]), c = word(value[2][h]), d = word(value[3][h]);
                    multiply(s, __byte_perm(a, b, 0x5410), __byte_perm(a, b, 0x7632), __byte_perm(c, d, 0x5410),
                             __byte_perm(c, d, 0x7632), p0, p1);
                }
        }
        n += count_here;
        #pragma unroll
        for (int e = 0; e < 2; e++)
            for (int step = 4; step < 32; step *= 2) weight[e] += __shfl_xor_sync(~0u, weight[e], step);
        // Join the warps, in their order.
        #pragma unroll
        for (int e = 0; e < 2; e++) {
            const int a = 2 * j + e;
            if (a >= GROUP) continue;
            if (g == 0) shared_top[warp][a] = top[e], shared_sum[warp][a] = weight[e];
            #pragma unroll
            for (int h = 0; h < VPARTS; h++)
                #pragma unroll
                for (int t = 0; t < 4; t++)
                    *(float2*)&shared_out[warp][a][64 * h + 8 * g + 2 * t] = make_float2(sums[h][t][e], sums[h][t][e + 2]);
        }
        auto consumers = [] { asm volatile("bar.sync 1, %0;" ::"n"(32 * WARPS) : "memory"); };
        consumers();
        const long stride = GROUP * (HEAD_DIM + 2), along = (long)KV_HEADS * stride;
        float* parts = partial + ((long)part[row] * KV_HEADS + head) * stride;
        u16* result = out + ((long)row * HEADS + head * GROUP) * HEAD_DIM;
        for (int i = threadIdx.x; i < GROUP * HEAD_DIM; i += 32 * WARPS) {
            const int a = i / HEAD_DIM, d = i % HEAD_DIM;
            float best = shared_top[0][a];
            for (int w = 1; w < WARPS; w++) best = fmaxf(best, shared_top[w][a]);
            float sum = 0.f, norm = 0.f;
            for (int w = 0; w < WARPS; w++) {
                const float f = exp2f(shared_top[w][a] - best);
                sum += f * shared_out[w][a][d], norm += f * shared_sum[w][a];
            }
            if (cut.chunks == 1) {
                result[i] = (u16)pack(sum / norm, 0.f);
            } else {
                float* to = parts + chunk * along + a * (HEAD_DIM + 2);
                to[d] = sum;
                if (d == 0) to[HEAD_DIM] = best, to[HEAD_DIM + 1] = norm;
            }
        }
        if (cut.chunks > 1) {
            // Whoever comes last joins the chunks, in their order.
            consumers();
            if (threadIdx.x == 0) {
                __threadfence();
                is_last = atomicAdd(arrived + row * KV_HEADS + head, 1) == cut.chunks - 1;
                if (is_last) arrived[row * KV_HEADS + head] = 0;
                __threadfence();
            }
            consumers();
            if (is_last)
                for (int i = threadIdx.x; i < GROUP * HEAD_DIM; i += 32 * WARPS) {
                    const int a = i / HEAD_DIM, d = i % HEAD_DIM;
                    const float* from = parts + a * (HEAD_DIM + 2);
                    float best = -1e30f;
                    for (int c = 0; c < cut.chunks; c++) best = fmaxf(best, __ldcg(from + c * along + HEAD_DIM));
                    float sum = 0.f, norm = 0.f;
                    for (int c = 0; c < cut.chunks; c++) {
                        const float f = exp2f(__ldcg(from + c * along + HEAD_DIM) - best);
                        sum += f * __ldcg(from + c * along + d), norm += f * __ldcg(from + c * along + HEAD_DIM + 1);
                    }
                    result[i] = (u16)pack(sum / norm, 0.f);
                }
        }
        consumers();
    }
}
