// y = x wᵀ for few rows of x: the weights stream through once, by the tensor memory accelerator, into wgmma.
//
// A block owns 64·GROUPS weight rows and one of SPLIT parts of the inner dimension; the blocks of a tile are a cluster
// and add their parts over distributed shared memory in a fixed order. Weights do not depend on the kernel before, so
// their first stages are under way before it ends. Tiles beyond the weights are rows of the adapters' A matrices. `wide`
// leaves y in f32: an update is added before anything is rounded.

struct alignas(64) TensorMap { char bytes[128]; };

DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
DEVICE void barrier_init(u32 bar, u32 count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count)); }
DEVICE void barrier_expect(u32 bar, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
DEVICE void barrier_arrive(u32 bar) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory"); }
DEVICE void barrier_wait(u32 bar, u32 parity) {
    asm volatile(
        "{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra over;\nbra again;\nover:\n}"
        ::"r"(bar), "r"(parity) : "memory");
}
DEVICE void load_tile(u32 to, const TensorMap* map, u32 bar, int k, int row, u64 policy) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5;"
        ::"r"(to), "l"(map), "r"(bar), "r"(k), "r"(row), "l"(policy) : "memory");
}
const u64 READ_ONCE = 0x12F0000000000000ull, READ_OFTEN = 0x14F0000000000000ull;

// A tile of rows of 64 numbers, 128 bytes, swizzled as the accelerator wrote it.
DEVICE u64 tile_descriptor(u32 address) {
    return (u64)((address & 0x3ffff) >> 4) | (1ull << 16) | (64ull << 32) | (1ull << 62);
}

template <int COLUMNS> struct Product;  // D (64, COLUMNS) += A (64, 16) B (COLUMNS, 16)ᵀ; made at run time

// Where a thread of a full block has too few registers for its sums, the loading group gives up its own.
__host__ __device__ constexpr bool tight(int groups, int columns) { return groups * columns > 512; }
__host__ __device__ constexpr int threads(int groups, int columns) { return 128 * groups + (tight(groups, columns) ? 128 : 32); }

DEVICE void cluster_barrier() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

template <int GROUPS, int COLUMNS, int STAGES, int SPLIT>
DEVICE void gemm(const TensorMap* weights, const TensorMap* updates, const TensorMap* inputs, u16* y, int outputs,
                 u16* xa, int update_rows, int inner, int rows, int wide) {
    constexpr int TILE = 64 * GROUPS, PITCH = TILE + 4;
    constexpr int W_BYTES = TILE * 128, X_BYTES = COLUMNS * 128;
    extern __shared__ char raw[];
    char* shared = (char*)(((u64)raw + 1023) & ~1023ull);
    u64* barriers = (u64*)(shared + STAGES * (W_BYTES + X_BYTES));
    const u32 base = shared_address(shared), full = shared_address(barriers), empty = full + 8 * STAGES;
    const int rank = blockIdx.x % SPLIT, weight_tiles = (outputs + TILE - 1) / TILE;
    int tile = blockIdx.x / SPLIT;
    const TensorMap* map = weights;
    if (tile >= weight_tiles) map = updates, tile -= weight_tiles, y = xa, outputs = update_rows, wide = 0;
    const int blocks = (inner + 63) / 64, first = blocks * rank / SPLIT, count = blocks * (rank + 1) / SPLIT - first;
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; s++) barrier_init(full + 8 * s, 1), barrier_init(empty + 8 * s, GROUPS);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    let_next_start();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (warp >= 4 * GROUPS) {
        if (tight(GROUPS, COLUMNS)) asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (warp == 4 * GROUPS && lane == 0) {
            auto stage_of = [&](int i) { return base + (i % STAGES) * (W_BYTES + X_BYTES); };
            const int ahead = count < STAGES ? count : STAGES;
            for (int i = 0; i < ahead; i++) {
                barrier_expect(full + 8 * i, W_BYTES + X_BYTES);
                load_tile(stage_of(i), map, full + 8 * i, (first + i) * 64, tile * TILE, READ_ONCE);
            }
            wait_for_previous();
            for (int i = 0; i < ahead; i++)
                load_tile(stage_of(i) + W_BYTES, inputs, full + 8 * i, (first + i) * 64, 0, READ_OFTEN);
            for (int i = ahead; i < count; i++) {
                const u32 bar = full + 8 * (i % STAGES);
                barrier_wait(empty + 8 * (i % STAGES), (i / STAGES - 1) & 1);
                barrier_expect(bar, W_BYTES + X_BYTES);
                load_tile(stage_of(i), map, bar, (first + i) * 64, tile * TILE, READ_ONCE);
                load_tile(stage_of(i) + W_BYTES, inputs, bar, (first + i) * 64, 0, READ_OFTEN);
            }
        }
        wait_for_previous();
        __syncwarp();
        if (SPLIT > 1) cluster_barrier(), cluster_barrier();
    } else {
        if (tight(GROUPS, COLUMNS)) asm volatile("setmaxnreg.inc.sync.aligned.u32 160;");
        const int group = warp / 4;
        float sums[COLUMNS / 2];
        #pragma unroll
        for (int i = 0; i < COLUMNS / 2; i++) sums[i] = 0.f;
        for (int i = 0; i < count; i++) {
            const u32 at = base + (i % STAGES) * (W_BYTES + X_BYTES);
            barrier_wait(full + 8 * (i % STAGES), (i / STAGES) & 1);
            asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
            const u64 w = tile_descriptor(at + group * 8192), x = tile_descriptor(at + W_BYTES);
            #pragma unroll
            for (int k = 0; k < 4; k++) {
                // In halves where one instruction would need more registers than a thread has at first.
                constexpr int PART = tight(GROUPS, COLUMNS) ? COLUMNS / 2 : COLUMNS;
                #pragma unroll
                for (int c = 0; c < COLUMNS; c += PART)
                    Product<PART>::add(sums + c / 2, w + 2 * k, x + 2 * k + c * 128 / 16);
            }
            asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
            asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
            if (i > 0 && threadIdx.x % 128 == 0) barrier_arrive(empty + 8 * ((i - 1) % STAGES));
        }
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        #pragma unroll
        for (int i = 0; i < COLUMNS / 2; i++) asm volatile("" : "+f"(sums[i])::"memory");
        // All stages have been read by all: their memory now holds the sums, (COLUMNS, TILE) in f32.
        asm volatile("bar.sync 1, %0;" ::"n"(128 * GROUPS) : "memory");
        wait_for_previous();
        float* out = (float*)shared;
        const int n = 64 * group + 16 * (warp % 4) + lane / 4, b = 2 * (lane % 4);
        #pragma unroll
        for (int i = 0; i < COLUMNS / 8; i++) {
            float* at = out + (8 * i + b) * PITCH + n;
            at[0] = sums[4 * i], at[PITCH] = sums[4 * i + 1];
            at[8] = sums[4 * i + 2], at[PITCH + 8] = sums[4 * i + 3];
        }
        if (SPLIT > 1) cluster_barrier();
        else asm volatile("bar.sync 1, %0;" ::"n"(128 * GROUPS) : "memory");
        const int from = COLUMNS * rank / SPLIT, to = COLUMNS * (rank + 1) / SPLIT;
        for (int i = threadIdx.x; i < (to - from) * (TILE / 4); i += 128 * GROUPS) {
            const int b = from + i / (TILE / 4), m = 4 * (i % (TILE / 4)), n = tile * TILE + m;
            if (b >= rows || n >= outputs) continue;
            const u32 here = base + 4 * (b * PITCH + m);
            float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
            #pragma unroll
            for (int s = 0; s < SPLIT; s++) {
                float4 part;
                if (SPLIT > 1) {
                    u32 there;
                    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"(s));
                    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                                 : "=f"(part.x), "=f"(part.y), "=f"(part.z), "=f"(part.w) : "r"(there) : "memory");
                } else {
                    part = *(const float4*)(shared + 4 * (b * PITCH + m));
                }
                sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
            }
            const long to_here = (long)b * outputs + n;
            if (wide) *(float4*)((float*)y + to_here) = sum;
            else *(uint2*)(y + to_here) = make_uint2(pack(sum.x, sum.y), pack(sum.z, sum.w));
        }
        if (SPLIT > 1) cluster_barrier();
    }
}

#define GEMM(GROUPS, COLUMNS, STAGES, SPLIT)                                                                         \
    extern "C" __global__ void __launch_bounds__(threads(GROUPS, COLUMNS), 1)                                                 \
        gemm_##GROUPS##_##COLUMNS##_##STAGES##_##SPLIT(                                                              \
            const __grid_constant__ TensorMap weights, const __grid_constant__ TensorMap updates,                    \
            const __grid_constant__ TensorMap inputs, u16* y, int outputs, u16* xa, int update_rows, int inner,      \
            int rows, int wide) {                                                                                    \
        gemm<GROUPS, COLUMNS, STAGES, SPLIT>(&weights, &updates, &inputs, y, outputs, xa, update_rows, inner, rows,  \
                                             wide);                                                                  \
    }
