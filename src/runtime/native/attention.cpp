// Attention over packed sequences of different lengths, by libtorch's flash kernels, which the tch crate does not bind.
// The dispatcher is in libtorch_cpu; the kernels register when the CUDA library is opened.

#include <ATen/core/Tensor.h>
#include <ATen/ops/_flash_attention_forward_ops.h>

#include <cstring>
#include <exception>

// Tensors are `at::Tensor*`, as tch has them. Gives a new one, or null with a message the caller frees.
extern "C" at::Tensor* atp_flash_attention(const at::Tensor* q, const at::Tensor* k, const at::Tensor* v,
                                           const at::Tensor* starts_q, const at::Tensor* starts_k, int64_t longest_q,
                                           int64_t longest_k, double scale, char** error) {
    try {
        auto result = at::_ops::_flash_attention_forward::call(*q, *k, *v, *starts_q, *starts_k, longest_q, longest_k,
                                                               0.0, true, false, scale, std::nullopt, std::nullopt,
                                                               std::nullopt, std::nullopt);
        return new at::Tensor(std::get<0>(result));
    } catch (const std::exception& e) {
        *error = strdup(e.what());
        return nullptr;
    }
}
