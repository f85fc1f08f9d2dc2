// From logits to a token, and the bookkeeping of its sequence; a block a row.
//
// Temperature, top-k, top-p, min-p, in this order, as the plain sampler applies them; among equal logits lower ids come
// first. The draw goes through the kept tokens in the order of their ids, by a uniform number that the host has made
// from the request's own stream. Weights are f32, their sums f64 in a fixed order. A forced token is known beforehand and
// only fed: it is no draw, and no stop token.

#define THREADS 1024
#define TILE_TOKENS 256  // a warp's eight tokens a lane
#define TILES ((VOCAB + TILE_TOKENS - 1) / TILE_TOKENS)

struct Draw {  // a slot's settings
    double temperature, top_p, min_p;
    const double* uniforms;  // one for each token to come; where it is forced, its id
    int top_k, limit;        // most tokens
    int stops[8];            // -1 where there are fewer
    int forced_from, forced_until;
};

// A number that orders as the logit does, 16 bits.
DEVICE u32 key_of(u16 logit) { return logit & 0x8000 ? 0xffffu & ~logit : logit | 0x8000u; }

template <class T> DEVICE T block_total(T v, T* scratch) {
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(~0u, v, step);
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
    __syncthreads();
    T sum = 0;
    for (int w = 0; w < THREADS / 32; w++) sum += scratch[w];
    return sum;
}

// Which tokens may be drawn: those with a key above `edge`, and the first `at_edge` of those that have it.
struct Kept {
    float top, factor, floor;  // largest logit; log2(e) / temperature; least weight
    u32 edge;
    int at_edge;

    DEVICE float weight(u16 logit) const { return exp2f((widen(logit) - top) * factor); }
};

DEVICE void load_eight(const u16* row, int at, u16* l) {
    const uint4 v = at < VOCAB ? *(const uint4*)(row + at) : make_uint4(0, 0, 0, 0);
    l[0] = v.x, l[1] = v.x >> 16, l[2] = v.y, l[3] = v.y >> 16, l[4] = v.z, l[5] = v.z >> 16, l[6] = v.w, l[7] = v.w >> 16;
}

// Number and mass of the tokens whose key is at least `least`.
DEVICE void beyond(const u16* row, const Kept& k, u32 least, bool masses, void* scratch, long* count, double* mass) {
    int n = 0;
    double m = 0.0;
    for (int at = 8 * threadIdx.x; at < VOCAB; at += 8 * THREADS) {
        u16 l[8];
        load_eight(row, at, l);
        #pragma unroll
        for (int i = 0; i < 8; i++)
            if (key_of(l[i]) >= least) n++, m += masses ? k.weight(l[i]) : 0.0;
    }
    *count = block_total<int>(n, (int*)scratch);
    if (masses) *mass = block_total<double>(m, (double*)scratch);
}

// logits (rows, VOCAB). Results by row: token, its log-probability, and status: 0 goes on, 1 ended by a stop token,
// 2 by its limit, 3 not finite, -1 not active.
extern "C" __global__ void __launch_bounds__(THREADS)
sample(const u16* logits, const int* slots, int* active, int* length, int* made, int* token, const Draw* draws,
       int* out_token, float* out_logprob, int* out_status) {
    __shared__ double sums[TILES], scratch[THREADS / 32];
    __shared__ float tile_top[TILES];
    __shared__ int edges[TILES];
    __shared__ float best_logit[32];
    __shared__ int best_id[32];
    __shared__ int shared_pick, shared_broken;
    wait_for_previous();
    let_next_start();
    const int row = blockIdx.x, slot = slots[row], thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    if (slot < 0 || !active[slot]) {
        if (thread == 0) out_status[row] = -1;
        return;
    }
    const Draw& d = draws[slot];
    const u16* mine = logits + (long)row * VOCAB;
    if (thread == 0) shared_broken = 0;
    const double temperature = d.temperature > 0.0 ? d.temperature : 1.0;
    const float factor = (float)(1.4426950408889634 / temperature);
    // Once through the logits: the likeliest token, and each tile's weights relative to its own likeliest.
    float top = -1.f / 0.f;
    int best = 0x7fffffff, broken = 0;
    for (int tile = warp; tile < TILES; tile += THREADS / 32) {
        u16 l[8];
        const int at = tile * TILE_TOKENS + 8 * lane;
        load_eight(mine, at, l);
        float here = -1.f / 0.f;
        if (at < VOCAB) {
            #pragma unroll
            for (int i = 0; i < 8; i++) {
                const float v = widen(l[i]);
                if (!(v < 1.f / 0.f)) broken = 1;
                if (v > top) top = v, best = at + i;
                here = fmaxf(here, v);
            }
        }
        for (int step = 16; step > 0; step /= 2) here = fmaxf(here, __shfl_xor_sync(~0u, here, step));
        double sum = 0.0;
        if (at < VOCAB && here > -1.f / 0.f) {
            #pragma unroll
            for (int i = 0; i < 8; i++) sum += exp2f((widen(l[i]) - here) * factor);
        }
        for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
        if (lane == 0) sums[tile] = sum, tile_top[tile] = here;
    }
    for (int step = 16; step > 0; step /= 2) {
        const float other = __shfl_xor_sync(~0u, top, step);
        const int id = __shfl_xor_sync(~0u, best, step);
        if (other > top || (other == top && id < best)) top = other, best = id;
    }
    if (lane == 0) best_logit[warp] = top, best_id[warp] = best;
    __syncthreads();
    if (broken) shared_broken = 1;
    top = best_logit[0], best = best_id[0];
    for (int w = 1; w < THREADS / 32; w++)
        if (best_logit[w] > top || (best_logit[w] == top && best_id[w] < best)) top = best_logit[w], best = best_id[w];
    __syncthreads();
    const int step = made[slot];
    if (shared_broken || !(top > -1.f / 0.f)) {
        if (thread == 0) out_status[row] = 3, out_token[row] = 0, out_logprob[row] = 0.f, active[slot] = 0;
        return;
    }
    Kept kept = {top, factor, 0.f, 0, VOCAB};
    const bool forced = step >= d.forced_from && step < d.forced_until;
    const bool draw = d.temperature > 0.0 && !forced, filter = draw && (d.top_k > 0 || d.top_p < 1.0 || d.min_p > 0.0);
    double part = 0.0;
    for (int tile = thread; tile < TILES; tile += THREADS) {
        sums[tile] = tile_top[tile] > -1.f / 0.f ? sums[tile] * exp2f((tile_top[tile] - top) * factor) : 0.0;
        part += sums[tile];
    }
    const double total = block_total<double>(part, scratch);  // over all tokens
    if (filter) {
        long count;
        double mass;
        // The largest key that at least k tokens reach, found bit by bit.
        const long k = d.top_k > 0 && d.top_k < VOCAB ? d.top_k : VOCAB;
        u32 edge = 0;
        if (k < VOCAB) {
            for (u32 bit = 0x8000; bit; bit /= 2) {
                beyond(mine, kept, edge | bit, false, scratch, &count, &mass);
                if (count >= k) edge |= bit;
            }
            beyond(mine, kept, edge + 1, false, scratch, &count, &mass);
            kept.edge = edge, kept.at_edge = k - count;
        }
        if (d.top_p < 1.0) {
            auto logit_of = [](u32 key) { return (u16)(key & 0x8000 ? key & 0x7fff : ~key & 0xffff); };
            beyond(mine, kept, kept.edge + 1, true, scratch, &count, &mass);
            const double of_k = mass + (k < VOCAB ? kept.at_edge * (double)kept.weight(logit_of(kept.edge)) : 0.0);
            const double wanted = d.top_p * of_k;
            // The largest key whose tokens and those above reach the wanted mass; not below the edge of the k.
            u32 low = 0;
            for (u32 bit = 0x8000; bit; bit /= 2) {
                beyond(mine, kept, low | bit, true, scratch, &count, &mass);
                if (mass >= wanted) low |= bit;
            }
            if (low >= kept.edge) {
                beyond(mine, kept, low + 1, true, scratch, &count, &mass);
                const double one = kept.weight(logit_of(low));
                const double more = one > 0.0 ? ceil((wanted - mass) / one) : (double)VOCAB;
                // Of equals at the edge of the k no more than that edge let through.
                const double most = low == kept.edge && k < VOCAB ? kept.at_edge : VOCAB;
                kept.edge = low, kept.at_edge = (int)fmin(fmax(more, 1.0), most);
            }
        }
        kept.floor = (float)d.min_p;
        // How many tokens at the edge each tile has, then those before it.
        for (int tile = warp; tile < TILES; tile += THREADS / 32) {
            u16 l[8];
            const int at = tile * TILE_TOKENS + 8 * lane;
            load_eight(mine, at, l);
            int n = 0;
            #pragma unroll
            for (int i = 0; i < 8; i++) n += at < VOCAB && key_of(l[i]) == kept.edge;
            for (int step = 16; step > 0; step /= 2) n += __shfl_xor_sync(~0u, n, step);
            if (lane == 0) edges[tile] = n;
        }
        __syncthreads();
        if (thread == 0)
            for (int tile = 0, before = 0; tile < TILES; tile++) {
                const int here = edges[tile];
                edges[tile] = before, before += here;
            }
        __syncthreads();
    }
    // Kept weights of a warp's tile, eight a lane; ids rise with the lane.
    auto tile_weights = [&](int tile, float* w) {
        u16 l[8];
        const int at = tile * TILE_TOKENS + 8 * lane;
        load_eight(mine, at, l);
        int seen = 0, own = 0;
        if (filter) {
            #pragma unroll
            for (int i = 0; i < 8; i++) own += at < VOCAB && key_of(l[i]) == kept.edge;
            seen = own;
            for (int step = 1; step < 32; step *= 2) {
                const int other = __shfl_up_sync(~0u, seen, step);
                if (lane >= step) seen += other;
            }
            seen += edges[tile] - own;
        }
        #pragma unroll
        for (int i = 0; i < 8; i++) {
            const float one = at < VOCAB ? kept.weight(l[i]) : 0.f;
            bool in = true;
            if (filter) {
                const u32 key = key_of(l[i]);
                in = (key > kept.edge || (key == kept.edge && seen < kept.at_edge)) && one >= kept.floor;
                seen += key == kept.edge;
            }
            w[i] = in ? one : 0.f;
        }
    };
    if (filter) {
        for (int tile = warp; tile < TILES; tile += THREADS / 32) {
            float w[8];
            tile_weights(tile, w);
            double sum = (double)w[0] + w[1] + w[2] + w[3] + w[4] + w[5] + w[6] + w[7];
            for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
            if (lane == 0) sums[tile] = sum;
        }
        __syncthreads();
    }
    int chosen = forced ? (int)d.uniforms[step] : best;
    if (draw) {
        // The tile in which the running sum passes the target; a warp looks at 32 tiles at once.
        if (warp == 0) {
            double all = 0.0;
            for (int first = 0; first < TILES; first += 32) {
                double sum = first + lane < TILES ? sums[first + lane] : 0.0;
                for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
                all += sum;
            }
            const double target = d.uniforms[step] * all;
            double before = 0.0;
            int found = -1, last = 0;
            double last_before = 0.0;
            for (int first = 0; first < TILES && found < 0; first += 32) {
                const double own = first + lane < TILES ? sums[first + lane] : 0.0;
                double until = own;
                for (int step = 1; step < 32; step *= 2) {
                    const double other = __shfl_up_sync(~0u, until, step);
                    if (lane >= step) until += other;
                }
                const u32 over = __ballot_sync(~0u, target < before + until), some = __ballot_sync(~0u, own > 0.0);
                // Rounding may leave the target beyond the last sum: the last tile with weight takes it.
                const int at = over ? __ffs(over) - 1 : some ? 31 - __clz(some) : 0;
                const double at_before = before + __shfl_sync(~0u, until - own, at);
                if (over) found = first + at;
                if (over || some) last = first + at, last_before = at_before;
                before += __shfl_sync(~0u, until, 31);
            }
            // In the tile, lane by lane.
            float w[8];
            tile_weights(last, w);
            double own = 0.0;
            #pragma unroll
            for (int i = 0; i < 8; i++) own += w[i];
            double until = own;
            for (int step = 1; step < 32; step *= 2) {
                const double other = __shfl_up_sync(~0u, until, step);
                if (lane >= step) until += other;
            }
            const u32 over = __ballot_sync(~0u, target < last_before + until), some = __ballot_sync(~0u, own > 0.0);
            const int at = over ? __ffs(over) - 1 : some ? 31 - __clz(some) : 0;
            if (lane == at) {
                double sum = last_before + until - own;
                int pick = best;
                bool done = false;
                #pragma unroll
                for (int i = 0; i < 8; i++) {
                    sum += w[i];
                    if (!done && w[i] > 0.f) pick = last * TILE_TOKENS + 8 * lane + i, done = target < sum;
                }
                shared_pick = pick;
            }
        }
        __syncthreads();
        chosen = shared_pick;
    }
    if (thread == 0) {
        int status = step + 1 >= d.limit ? 2 : 0;
        for (int i = 0; i < 8; i++)
            if (d.stops[i] == chosen && !forced) status = 1;
        out_token[row] = chosen;
        out_logprob[row] = (float)((double)(widen(mine[chosen]) - top) / temperature - log(total));
        out_status[row] = status;
        token[slot] = chosen;
        length[slot] += 1;
        made[slot] = step + 1;
        if (status) active[slot] = 0;
    }
}
