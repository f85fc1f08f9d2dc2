// libtorch's caching allocator of the GPU: giving memory back, and what it holds.

#include <c10/core/CachingDeviceAllocator.h>

#include <exception>

// Gives back what is held for later. 0 where there is no such allocator.
extern "C" int atp_empty_cache() {
    try {
        c10::getDeviceAllocator(c10::DeviceType::CUDA)->emptyCache();
        return 1;
    } catch (const std::exception&) {
        return 0;
    }
}

// Bytes in use by tensors, now and at most since the last reset, and bytes held from the driver.
extern "C" int atp_memory_stats(int index, int64_t* now, int64_t* most, int64_t* held, int reset) {
    try {
        auto* allocator = c10::getDeviceAllocator(c10::DeviceType::CUDA);
        const auto stats = allocator->getDeviceStats(index);
        *now = stats.allocated_bytes[0].current, *most = stats.allocated_bytes[0].peak;
        *held = stats.reserved_bytes[0].current;
        if (reset) allocator->resetPeakStats(index);
        return 1;
    } catch (const std::exception&) {
        return 0;
    }
}
