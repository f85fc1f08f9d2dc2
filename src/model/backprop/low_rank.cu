// Low-rank updates of training's products: y = x wᵀ + z bᵀ, z = x aᵀ. An update is small beside what it is added to, so
// their sum must be rounded once; cuBLAS, told to add to a bf16 matrix, rounds the product before. So products of projections
// that carry an update are left in f32, and whatever reads them adds the update first. On the way back libtorch's products
// for such thin matrices would split their sums, clear memory for the parts and add them in launches of their own; here wide
// matrices are read once, every part has its place, and parts are added in one order.

// An adapter's matrices out of its flat buffer, in bf16: entry (from, to, rows, columns, stride, turned) puts rows by
// columns numbers, times `scale`, at `to` with that stride; a turned matrix is transposed and not scaled.
extern "C" __global__ void __launch_bounds__(256)
pack_adapter(const float* flat, const long* entries, float scale, u16* out) {
    const long* entry = entries + 6l * blockIdx.y;
    const long rows = entry[2], columns = entry[3], stride = entry[4], count = rows * columns;
    for (long i = (long)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (long)gridDim.x * blockDim.x) {
        const long row = i / columns, column = i % columns;
        const float v = flat[entry[0] + i];
        const long to = entry[1] + (entry[5] ? column * stride + row : row * stride + column);
        out[to] = (u16)(pack(entry[5] ? v : scale * v, 0.f) & 0xffff);
    }
}

// Row tiles of a warp of `low_rank_add`, which holds its part of b for all of them.
#define TILES 4

// out = y + z bᵀ, rounded once: y (rows, outputs) in f32, z (rows, rank), b (outputs, rank), rank in eights, outputs in 32s.
extern "C" __global__ void __launch_bounds__(128)
low_rank_add(const float* __restrict__ y, const u16* __restrict__ z, const u16* __restrict__ b, u16* __restrict__ out, int rows,
             int outputs, int rank) {
    const int lane = threadIdx.x % 32, g = lane / 4, j = lane % 4;
    const int block = 32 * (4 * blockIdx.x + threadIdx.x / 32);
    if (block >= outputs) return;
    const long top = 16l * TILES * blockIdx.y;
    // Columns are permuted as in `Tile`.
    const u16* from = b + (long)(block + 8 * (g / 2) + g % 2) * rank + 2 * j;
    float sums[TILES][4][4] = {};
    for (int r = 0; r < rank; r += 8) {
        u32 own[4], low[TILES][2];
        #pragma unroll
        for (int t = 0; t < 4; t++) own[t] = *(const u32*)(from + 2l * t * rank + r);
        #pragma unroll
        for (int i = 0; i < TILES; i++)
            #pragma unroll
            for (int h = 0; h < 2; h++) {
                const long row = top + 16 * i + 8 * h + g;
                low[i][h] = row < rows ? *(const u32*)(z + row * rank + r + 2 * j) : 0;
            }
        #pragma unroll
        for (int i = 0; i < TILES; i++)
            #pragma unroll
            for (int t = 0; t < 4; t++) multiply_eight(sums[i][t], low[i][0], low[i][1], own[t]);
    }
    #pragma unroll
    for (int i = 0; i < TILES; i++)
        #pragma unroll
        for (int h = 0; h < 2; h++) {
            const long row = top + 16 * i + 8 * h + g, at = row * outputs + block + 8 * j;
            if (row >= rows) return;
            float v[8];
            unpack8_of(y, at, 1, v);
            #pragma unroll
            for (int k = 0; k < 8; k++) v[k] += sums[i][k / 2][2 * h + k % 2];
            *(uint4*)(out + at) = pack8(v);
        }
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

// Columns of a block, rows of them on their way together, and how many such steps are under way (low_rank.rs).
#define STRIP 256
#define STEP 32
#define STAGES 4
#define PITCH (STRIP + 8)  // keeps eight rows of 16 bytes apart in shared memory

// One reading of y, (rows, columns), for two thin products with it. Block (i, s) has columns from STRIP i and rows from
// per · s. Its part of yᵀ z goes to sums, (splits, columns, R); with BACK its part of y b goes to low, (strips, rows, R).
// z is (rows, R), b (columns, R), R = 8 EIGHTS.
template <int EIGHTS, bool BACK>
DEVICE void read_once(const u16* __restrict__ y, const u16* __restrict__ z, const u16* __restrict__ b, float* __restrict__ low,
                      float* __restrict__ sums, int rows, int columns, int per) {
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
            fetch16(tiles + (stage * STEP + row) * PITCH + column, there ? y + (from + row) * columns + left + column : y, there);
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
                const int column = left + 32 * warp + 16 * m + 8 * h + g;
                if (column < columns)
                    *(float2*)(sums + ((long)blockIdx.y * columns + column) * R + 8 * n + 2 * j) =
                        make_float2(all[m][n][2 * h], all[m][n][2 * h + 1]);
            }
}

#define READ_ONCE(eights)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
    low_rank_back_##eights(const u16* y, const u16* z, const u16* b, float* low, float* sums, int rows, int columns,   \
                           int per) {                                                                                  \
        read_once<eights, true>(y, z, b, low, sums, rows, columns, per);                                               \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
    low_rank_input_##eights(const u16* y, const u16* z, float* sums, int rows, int columns, int per) {                 \
        read_once<eights, false>(y, z, nullptr, nullptr, sums, rows, columns, per);                                    \
    }
READ_ONCE(1)
READ_ONCE(2)
READ_ONCE(3)
READ_ONCE(4)
READ_ONCE(6)

DEVICE float added(const float* parts, long apart, int count) {
    float sum = 0.f;
    #pragma unroll 8
    for (int i = 0; i < count; i++) sum += parts[i * apart];
    return sum;
}

// What `low_rank_back` left in parts. Row 0 of blocks adds `strips` parts of y b, `numbers` each, to `d_low`. Each row after
// it adds one target's block of yᵀ z, (outputs, rank) at its row and rank of (columns, stride), times `scale` to its
// gradient in the flat buffer.
extern "C" __global__ void __launch_bounds__(256)
low_rank_sum(const float* __restrict__ low, int strips, long numbers, u16* __restrict__ d_low, const float* __restrict__ sums,
             int splits, int columns, int stride, const long* __restrict__ blocks, int rank, float scale, float* flat) {
    const long first = (long)blockIdx.x * blockDim.x + threadIdx.x, each = (long)gridDim.x * blockDim.x;
    if (blockIdx.y == 0) {
        for (long at = 2 * first; at < numbers; at += 2 * each)
            *(u32*)(d_low + at) = pack(added(low + at, numbers, strips), added(low + at + 1, numbers, strips));
        return;
    }
    const long* block = blocks + 4l * (blockIdx.y - 1);  // to, row, outputs, first rank
    for (long i = first; i < block[2] * rank; i += each) {
        const float* from = sums + (block[1] + i / rank) * stride + block[3] + i % rank;
        flat[block[0] + i] += scale * added(from, (long)columns * stride, splits);
    }
}

// The parts that `low_rank_input` left, (splits, columns, R), are added to a, (R, columns).
extern "C" __global__ void __launch_bounds__(256)
low_rank_input_sum(const float* __restrict__ sums, int splits, int columns, int stride, float* a) {
    const long numbers = (long)columns * stride;
    for (long i = (long)blockIdx.x * blockDim.x + threadIdx.x; i < numbers; i += (long)gridDim.x * blockDim.x)
        a[i] += added(sums + i % columns * stride + i / columns, numbers, splits);
}
