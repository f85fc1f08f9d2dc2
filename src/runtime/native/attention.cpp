// Attention over packed sequences of different lengths and its backward, by libtorch's flash kernels, which the tch crate
// does not bind. The dispatcher is in libtorch_cpu; the kernels register when the CUDA library is opened.

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_flash_attention_backward_ops.h>
#include <ATen/ops/_flash_attention_forward_ops.h>

#include "guarded.h"

namespace {

// The backward adds in one order while this lives. Memory that is written anyway is not filled first.
struct Deterministic {
    at::Context& context = at::globalContext();
    bool on = context.deterministicAlgorithms();
    bool warn = context.deterministicAlgorithmsWarnOnly();
    bool fill = context.deterministicFillUninitializedMemory();
    Deterministic() {
        context.setDeterministicAlgorithms(true, false);
        context.setDeterministicFillUninitializedMemory(false);
    }
    ~Deterministic() {
        context.setDeterministicAlgorithms(on, warn);
        context.setDeterministicFillUninitializedMemory(fill);
    }
};

}  // namespace

// Gives the result, the logarithms of the sums and the random state (two tensors).
extern "C" int atp_flash_attention(const at::Tensor* q, const at::Tensor* k, const at::Tensor* v,
                                   const at::Tensor* starts_q, const at::Tensor* starts_k, int64_t longest_q,
                                   int64_t longest_k, double scale, at::Tensor** out, char** error) {
    return guarded(error, 1, [&] {
        auto [result, sums, state, unused, mask] = at::_ops::_flash_attention_forward::call(
            *q, *k, *v, *starts_q, *starts_k, longest_q, longest_k, 0.0, true, false, scale, std::nullopt, std::nullopt,
            std::nullopt, std::nullopt);
        out[0] = new at::Tensor(result);
        out[1] = new at::Tensor(sums);
        out[2] = new at::Tensor(state);
        out[3] = new at::Tensor(unused);
        return 0;
    });
}

extern "C" int atp_flash_attention_backward(const at::Tensor* d_out, const at::Tensor* q, const at::Tensor* k,
                                            const at::Tensor* v, const at::Tensor* out, const at::Tensor* const* saved,
                                            const at::Tensor* starts_q, const at::Tensor* starts_k, int64_t longest_q,
                                            int64_t longest_k, double scale, at::Tensor** gradients, char** error) {
    return guarded(error, 1, [&] {
        Deterministic here;
        auto [d_q, d_k, d_v] = at::_ops::_flash_attention_backward::call(
            *d_out, *q, *k, *v, *out, *saved[0], *starts_q, *starts_k, longest_q, longest_k, 0.0, true, *saved[1],
            *saved[2], scale, std::nullopt, std::nullopt);
        gradients[0] = new at::Tensor(d_q);
        gradients[1] = new at::Tensor(d_k);
        gradients[2] = new at::Tensor(d_v);
        return 0;
    });
}
