// Low-rank updates of training's products. Where matrices have room (room.rs), y = [x z] [W B]ᵀ with z = x Aᵀ is one product,
// and so is its way back. What is left for kernels is to put A and B there, to make z, and to make the gradients: libtorch's
// products for such thin matrices would split their sums, clear memory for the parts and add them in launches of their own;
// here wide matrices are read once, every part has its place, and parts are added in one order.

// An adapter's B matrices out of its flat buffer, in bf16: entry (from, to, rows, columns, stride) puts rows by columns
// numbers, times `scale`, at `to` with that stride.
extern "C" __global__ void __launch_bounds__(256)
pack_adapter(const float* flat, const long* entries, float scale, u16* out) {
    const long* entry = entries + 5l * blockIdx.y;
    const int columns = entry[3], stride = entry[4], count = (int)entry[2] * columns;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
        out[entry[1] + (long)(i / columns) * stride + i % columns] = (u16)(pack(scale * flat[entry[0] + i], 0.f) & 0xffff);
}

DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
// 16 bytes on their way to shared memory, zeros where there are none.
DEVICE void fetch16(const void* to, const u16* from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(shared_address(to)), "l"(from), "r"(there ? 16 : 0));
}
DEVICE void load_four(u32* to, const u16* from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(shared_address(from)));
}
DEVICE void load_four_turned(u32* to, const u16* from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(shared_address(from)));
}
DEVICE void load_two_turned(u32* to, const u16* from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(to[0]), "=r"(to[1]) : "r"(shared_address(from)));
}
// d += a b: a is 16 by 16, b is 16 by 8.
DEVICE void multiply_sixteen(float* d, const u32* a, const u32* b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// z = x aᵀ, (rows, R) of (rows, inner) and (R, inner), R = 8 EIGHTS: a block has 32 rows, its 16 warps share their length and
// their sums are added in one order. Rows of x lie `stride` apart. Rows of `to`, which lie `to_stride` apart, get z behind
// their `inner` numbers, and the row of x itself before it where it `copies`; `to` may be null, or x.
template <int EIGHTS>
DEVICE void inner_part(const u16* x, int stride, const u16* __restrict__ a, int rows, int inner, u16* __restrict__ z, u16* to,
                       int to_stride, int copies) {
    constexpr int R = 8 * EIGHTS;
    __shared__ float parts[8][32 * R];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, j = lane % 4, top = 32 * blockIdx.x;
    float sums[2][EIGHTS][4] = {};
    #pragma unroll 2
    for (int base = 32 * warp; base < inner; base += 512) {
        // The products' inner numbers are permuted alike on both sides, so that a lane's eight are neighbours.
        const int k = base + 8 * j;
        const bool in = k < inner;
        uint4 v[4], w[EIGHTS];
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            const int row = top + 8 * i + g;
            v[i] = in && row < rows ? *(const uint4*)(x + (long)row * stride + k) : make_uint4(0, 0, 0, 0);
        }
        #pragma unroll
        for (int n = 0; n < EIGHTS; n++)
            w[n] = in ? *(const uint4*)(a + (long)(8 * n + g) * inner + k) : make_uint4(0, 0, 0, 0);
        #pragma unroll
        for (int m = 0; m < 2; m++) {
            const uint4 upper = v[2 * m], lower = v[2 * m + 1];
            const u32 first[4] = {upper.x, lower.x, upper.y, lower.y}, second[4] = {upper.z, lower.z, upper.w, lower.w};
            #pragma unroll
            for (int n = 0; n < EIGHTS; n++) {
                const u32 one[2] = {w[n].x, w[n].y}, two[2] = {w[n].z, w[n].w};
                multiply_sixteen(sums[m][n], first, one);
                multiply_sixteen(sums[m][n], second, two);
            }
        }
        if (copies) {
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                const int row = top + 8 * i + g;
                if (in && row < rows) *(uint4*)(to + (long)row * to_stride + k) = v[i];
            }
        }
    }
    // The upper half of the warps leaves its sums to the lower.
    #pragma unroll
    for (int turn = 0; turn < 2; turn++) {
        if (warp / 8 == 1 - turn)
            #pragma unroll
            for (int m = 0; m < 2; m++)
                #pragma unroll
                for (int n = 0; n < EIGHTS; n++)
                    #pragma unroll
                    for (int h = 0; h < 2; h++) {
                        float2* place = (float2*)(parts[warp % 8] + (16 * m + 8 * h + g) * R + 8 * n + 2 * j);
                        const float2 before = turn ? *place : make_float2(0.f, 0.f);
                        *place = make_float2(before.x + sums[m][n][2 * h], before.y + sums[m][n][2 * h + 1]);
                    }
        __syncthreads();
    }
    for (int at = 2 * threadIdx.x; at < 32 * R; at += 1024) {
        const int row = top + at / R;
        if (row >= rows) break;
        float low = 0.f, high = 0.f;
        #pragma unroll
        for (int w = 0; w < 8; w++) low += parts[w][at], high += parts[w][at + 1];
        const u32 both = pack(low, high);
        *(u32*)(z + (long)top * R + at) = both;
        if (to) *(u32*)(to + (long)row * to_stride + inner + at % R) = both;
    }
}

// Columns of a block, rows of them on their way together, and how many such steps are under way (low_rank.rs).
#define STRIP 256
#define STEP 32
#define STAGES 4
#define PITCH (STRIP + 8)  // keeps eight rows of 16 bytes apart in shared memory

// One reading of y, (rows, columns) with rows `stride` apart, for two thin products with it. Block (i, s) has columns from STRIP i and rows from
// per · s. Its part of yᵀ z goes to sums, (splits, R, columns); with BACK that goes to (splits, columns, R), and its part of y b
// to low, (strips, rows, R). z is (rows, R), b (columns, R), R = 8 EIGHTS.
template <int EIGHTS, bool BACK>
DEVICE void read_once(const u16* __restrict__ y, int stride, const u16* __restrict__ z, const u16* __restrict__ b,
                      float* __restrict__ low, float* __restrict__ sums, int rows, int columns, int per) {
    constexpr int R = 8 * EIGHTS;
    extern __shared__ __align__(16) u16 shared[];
    u16* const tiles = shared;                                  // (STAGES, STEP, PITCH)
    u16* const inner = tiles + STAGES * STEP * PITCH;           // (STAGES, STEP, R)
    float* const parts = (float*)(inner + STAGES * STEP * R);   // (4, STEP, R)
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, j = lane % 4;
    const int eight = lane / 8, line = lane % 8;  // of the four matrices that a warp loads
    const int left = STRIP * blockIdx.x;
    const long top = (long)per * blockIdx.y, bottom = min(top + per, (long)rows);
    const int steps = (int)(bottom - top + STEP - 1) / STEP;
    auto fetch = [&](int step) {
        const int stage = step % STAGES;
        const long from = top + (long)STEP * step;
        #pragma unroll
        for (int i = 0; i < STEP * STRIP / 8 / 256; i++) {
            const int chunk = threadIdx.x + 256 * i, row = chunk / (STRIP / 8), column = 8 * (chunk % (STRIP / 8));
            const bool there = from + row < bottom && left + column < columns;
            fetch16(tiles + (stage * STEP + row) * PITCH + column, there ? y + (from + row) * stride + left + column : y, there);
        }
        for (int chunk = threadIdx.x; chunk < STEP * EIGHTS; chunk += 256) {
            const bool there = from + chunk / EIGHTS < bottom;
            fetch16(inner + stage * STEP * R + 8 * chunk, there ? z + from * R + 8 * chunk : z, there);
        }
    };
    #pragma unroll
    for (int step = 0; step < STAGES - 1; step++) {
        if (step < steps) fetch(step);
        asm volatile("cp.async.commit_group;");
    }
    // A warp's part of b: a quarter of the columns.
    u32 own[BACK ? 4 : 1][EIGHTS][2];
    if (BACK) {
        #pragma unroll
        for (int k = 0; k < 4; k++)
            #pragma unroll
            for (int n = 0; n < EIGHTS; n++)
                #pragma unroll
                for (int h = 0; h < 2; h++) {
                    const int column = left + 64 * (warp / 2) + 16 * k + 8 * h + 2 * j;
                    const u16* from = b + (long)column * R + 8 * n + g;
                    own[k][n][h] = column < columns ? from[0] | (u32)from[R] << 16 : 0;
                }
    }
    float all[2][EIGHTS][4] = {};
    for (int step = 0; step < steps; step++) {
        asm volatile("cp.async.wait_group %0;" :: "n"(STAGES - 2));
        __syncthreads();
        if (step + STAGES - 1 < steps) fetch(step + STAGES - 1);
        asm volatile("cp.async.commit_group;");
        const u16* tile = tiles + step % STAGES * STEP * PITCH;
        const u16* thin = inner + step % STAGES * STEP * R;
        // yᵀ z: a warp has 32 columns.
        #pragma unroll
        for (int half = 0; half < 2; half++) {
            u32 right[EIGHTS][2];
            #pragma unroll
            for (int n = 0; n < EIGHTS; n++) load_two_turned(right[n], thin + (16 * half + lane % 16) * R + 8 * n);
            #pragma unroll
            for (int m = 0; m < 2; m++) {
                u32 a[4];
                load_four_turned(a, tile + (16 * half + 8 * (eight / 2) + line) * PITCH + 32 * warp + 16 * m + 8 * (eight % 2));
                #pragma unroll
                for (int n = 0; n < EIGHTS; n++) multiply_sixteen(all[m][n], a, right[n]);
            }
        }
        if (!BACK) continue;
        // y b: a warp has half of the rows and a quarter of the columns; the quarters are added.
        float back[EIGHTS][4] = {};
        const int half = 16 * (warp % 2);
        #pragma unroll
        for (int k = 0; k < 4; k++) {
            u32 a[4];
            load_four(a, tile + (half + 8 * (eight % 2) + line) * PITCH + 64 * (warp / 2) + 16 * k + 8 * (eight / 2));
            #pragma unroll
            for (int n = 0; n < EIGHTS; n++) multiply_sixteen(back[n], a, own[k][n]);
        }
        #pragma unroll
        for (int n = 0; n < EIGHTS; n++)
            #pragma unroll
            for (int h = 0; h < 2; h++)
                *(float2*)(parts + (STEP * (warp / 2) + half + 8 * h + g) * R + 8 * n + 2 * j) =
                    make_float2(back[n][2 * h], back[n][2 * h + 1]);
        __syncthreads();
        const long from = top + (long)STEP * step;
        for (int at = threadIdx.x; at < STEP * R; at += 256)
            if (from + at / R < bottom)
                low[((long)blockIdx.x * rows + from) * R + at] =
                    parts[at] + parts[at + STEP * R] + parts[at + 2 * STEP * R] + parts[at + 3 * STEP * R];
    }
    #pragma unroll
    for (int m = 0; m < 2; m++)
        #pragma unroll
        for (int n = 0; n < EIGHTS; n++)
            #pragma unroll
            for (int h = 0; h < 2; h++) {
                const int column = left + 32 * warp + 16 * m + 8 * h + g, rank = 8 * n + 2 * j;
                if (column >= columns) continue;
                float* own = sums + (long)blockIdx.y * columns * R;
                const float first = all[m][n][2 * h], second = all[m][n][2 * h + 1];
                if (BACK)
                    *(float2*)(own + column * R + rank) = make_float2(first, second);
                else
                    own[rank * columns + column] = first, own[(rank + 1) * columns + column] = second;
            }
}

#define KERNELS(eights)                                                                                                \
    extern "C" __global__ void __launch_bounds__(512)                                                                  \
    low_rank_inner_##eights(const u16* x, int stride, const u16* a, int rows, int inner, u16* z, u16* to,              \
                            int to_stride, int copies) {                                                               \
        inner_part<eights>(x, stride, a, rows, inner, z, to, to_stride, copies);                                       \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
    low_rank_back_##eights(const u16* y, int stride, const u16* z, const u16* b, float* low, float* sums, int rows,    \
                           int columns, int per) {                                                                     \
        read_once<eights, true>(y, stride, z, b, low, sums, rows, columns, per);                                       \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
    low_rank_input_##eights(const u16* y, int stride, const u16* z, float* sums, int rows, int columns, int per) {     \
        read_once<eights, false>(y, stride, z, nullptr, nullptr, sums, rows, columns, per);                            \
    }
KERNELS(1)
KERNELS(2)
KERNELS(3)
KERNELS(4)
KERNELS(6)

// The numbers at one place of all parts.
template <typename T>
DEVICE T added(const float* parts, long apart, int count);
template <>
DEVICE float added(const float* parts, long apart, int count) {
    float sum = 0.f;
    #pragma unroll 8
    for (int i = 0; i < count; i++) sum += parts[i * apart];
    return sum;
}
template <>
DEVICE float2 added(const float* parts, long apart, int count) {
    float2 sum = make_float2(0.f, 0.f);
    #pragma unroll 8
    for (int i = 0; i < count; i++) {
        const float2 v = *(const float2*)(parts + i * apart);
        sum.x += v.x, sum.y += v.y;
    }
    return sum;
}

// What `low_rank_back` left in parts. Row 0 of blocks adds `strips` parts of y b, (rows, ranks) each, to `d_low`, and puts the
// sums behind the `columns` numbers of rows of y, which lie `stride` apart, unless y is null. Each row of blocks after it adds
// one target's part of yᵀ z, (outputs, rank) at its row and rank of (columns, ranks), times `scale` to its gradient in the
// flat buffer.
extern "C" __global__ void __launch_bounds__(256)
low_rank_sum(const float* __restrict__ low, int strips, int rows, u16* __restrict__ d_low, u16* __restrict__ y, int stride,
             const float* __restrict__ sums, int splits, int columns, int ranks, const long* __restrict__ blocks, int rank,
             float scale, float* flat) {
    const int first = blockIdx.x * blockDim.x + threadIdx.x, each = gridDim.x * blockDim.x;
    if (blockIdx.y == 0) {
        const int numbers = rows * ranks;
        for (int at = 2 * first; at < numbers; at += 2 * each) {
            const float2 sum = added<float2>(low + at, numbers, strips);
            *(u32*)(d_low + at) = pack(sum.x, sum.y);
            if (y) *(u32*)(y + (long)(at / ranks) * stride + columns + at % ranks) = pack(sum.x, sum.y);
        }
        return;
    }
    const long* block = blocks + 4l * (blockIdx.y - 1);  // to, row, outputs, first rank
    const float* own = sums + block[1] * ranks + block[3];
    const int count = (int)block[2] * rank;
    for (int i = first; i < count; i += each)
        flat[block[0] + i] += scale * added<float>(own + i / rank * ranks + i % rank, (long)columns * ranks, splits);
}

// The parts that `low_rank_input` left, (splits, R, columns), are added to a, (R, columns).
extern "C" __global__ void __launch_bounds__(256)
low_rank_input_sum(const float* __restrict__ sums, int splits, int numbers, float* a) {
    for (int i = 2 * (blockIdx.x * blockDim.x + threadIdx.x); i < numbers; i += 2 * gridDim.x * blockDim.x) {
        const float2 sum = added<float2>(sums + i, numbers, splits);
        float2* place = (float2*)(a + i);
        *place = make_float2(place->x + sum.x, place->y + sum.y);
    }
}
