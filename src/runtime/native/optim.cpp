// libtorch's AdamW in one pass over parameter, gradient and moments, which the tch crate does not bind.

#include <ATen/core/Tensor.h>
#include <ATen/ops/_fused_adamw_ops.h>

#include "guarded.h"

// `step` counts from one and `divisor` divides the gradient first, which keeps what it becomes; both are f32 of one
// number on the parameter's device.
extern "C" int atp_adamw(const at::Tensor* parameter, const at::Tensor* gradient, const at::Tensor* first,
                         const at::Tensor* second, const at::Tensor* step, const at::Tensor* divisor, double lr,
                         double beta1, double beta2, double weight_decay, double eps, char** error) {
    return guarded(error, 1, [&] {
        at::_ops::_fused_adamw_::call({*parameter}, {*gradient}, {*first}, {*second}, {}, {*step}, lr, beta1, beta2,
                                      weight_decay, eps, false, false, *divisor, std::nullopt);
        return 0;
    });
}
