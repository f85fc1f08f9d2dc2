// Shared by all kernels of the decode step. Compiled at run time for one model: its shape is given as macros.
//
//   HIDDEN FFN HEADS KV_HEADS HEAD_DIM VOCAB   shape
//   QK_NORM                                    1 where q and k have a norm on each head
//   EPS                                        epsilon of the norms
//   RANK                                       of the low-rank updates, a multiple of 8; smaller ones are padded
//   PAGE CHUNK RING WARPS                      of the cache and the attention (kernels.rs)
//
// Numbers are bf16 in memory and f32 in registers. Every sum has an order that depends on the row alone, never on how
// many rows there are: a request's bits do not depend on its neighbours.

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define GROUP (HEADS / KV_HEADS)
#define QKV ((HEADS + 2 * KV_HEADS) * HEAD_DIM)
#define DEVICE __device__ __forceinline__

DEVICE float low_half(u32 v) { return __uint_as_float(v << 16); }
DEVICE float high_half(u32 v) { return __uint_as_float(v & 0xffff0000u); }
DEVICE float widen(u16 v) { return __uint_as_float((u32)v << 16); }
DEVICE u32 pack(float low, float high) {
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}
DEVICE float rounded(float v) { return low_half(pack(v, 0.f)); }

// Eight numbers of 16 bytes.
DEVICE void unpack8(uint4 v, float* out) {
    out[0] = low_half(v.x), out[1] = high_half(v.x), out[2] = low_half(v.y), out[3] = high_half(v.y);
    out[4] = low_half(v.z), out[5] = high_half(v.z), out[6] = low_half(v.w), out[7] = high_half(v.w);
}
DEVICE uint4 pack8(const float* in) {
    return make_uint4(pack(in[0], in[1]), pack(in[2], in[3]), pack(in[4], in[5]), pack(in[6], in[7]));
}

// A kernel may start while the one before it still runs; what that one wrote is there after `wait_for_previous`.
DEVICE void wait_for_previous() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
DEVICE void let_next_start() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

DEVICE float warp_sum(float v) {
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(~0u, v, step);
    return v;
}

#define BLOCK(n) (((n) / 8 + 31) / 32 * 32)  // a thread takes eight numbers

DEVICE float block_sum(float v, float* scratch) {
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
    __syncthreads();
    float sum = 0.f;
    for (int w = 0; w < blockDim.x / 32; w++) sum += scratch[w];
    return sum;
}

// A warp holds a head, a lane neighbouring numbers of it.
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

// d += a b: a is 16 by 8, b is 8 by 8.
DEVICE void multiply_eight(float* d, u32 a0, u32 a1, u32 b) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a0), "r"(a1), "r"(b));
}

// Low-rank updates of the rows' adapters. `xa` holds A x for every adapter, `(rows, stride)`: adapter `i` has columns
// from `i * width`. `b` holds the B matrices of this projection, `(adapters, outputs, RANK)`; null where there are none.
struct Updates {
    const u16* xa;
    const u16* b;
    const int* adapter;  // of each row; -1 is none
    const float* scale;  // of each adapter
    int stride, width, outputs, count;
    int wide;            // the output that they are added to is f32
};

// Eight numbers of an output, bf16 or f32.
DEVICE void unpack8_of(const void* y, long at, int wide, float* v) {
    if (wide) {
        const float4 a = *(const float4*)((const float*)y + at), b = *(const float4*)((const float*)y + at + 4);
        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
    } else {
        unpack8(*(const uint4*)((const u16*)y + at), v);
    }
}
