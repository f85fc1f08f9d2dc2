// How a call from Rust ends, whatever is thrown in it. Tensors are `at::Tensor*`, as tch has them.
#pragma once

#include <c10/util/Exception.h>

#include <cstring>
#include <exception>

// What `body` gives, or `otherwise` with a message the caller frees.
template <typename T, typename F>
T guarded(char** error, T otherwise, F&& body) {
    try {
        return body();
    } catch (const c10::Error& e) {
        *error = strdup(e.what_without_backtrace());
    } catch (const std::exception& e) {
        *error = strdup(e.what());
    } catch (...) {
        *error = strdup("an unknown error");
    }
    return otherwise;
}
