// Matrices into the room of the weights: entry (from, to, rows, columns, stride) copies contiguous rows, whose length is in
// eights, to an address where they lie `stride` apart.
extern "C" __global__ void __launch_bounds__(256)
lay_out(const long* entries) {
    const long* entry = entries + 5l * blockIdx.y;
    const uint4* from = (const uint4*)entry[0];
    const int eights = (int)entry[3] / 8, count = (int)entry[2] * eights;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
        *(uint4*)((u16*)entry[1] + (long)(i / eights) * entry[4] + 8 * (i % eights)) = from[i];
}
