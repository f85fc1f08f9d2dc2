// Ranks that work together, by libtorch's c10d: a store over TCP through which they find each other, and Gloo among CPUs.
// Both are in libtorch_cpu; `gloo/` says why its headers are here.

#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "guarded.h"

namespace {

using Store = c10::intrusive_ptr<c10d::Store>;
using Group = c10::intrusive_ptr<c10d::ProcessGroupGloo>;

// How long a rank waits in the middle of the work for the others: one may download a model, write a report or have the
// longest texts. One that is gone is told by its heart-beat, not by this.
constexpr std::chrono::hours Patience{24};

} // namespace

// Connects to the store at `host:port`, or is it. `listening` is a bound socket for it to take over, or negative.
extern "C" Store* atp_store_open(const char* host, uint16_t port, int is_server, int listening, int64_t timeout_ms,
                                 char** error) {
    return guarded<Store*>(error, nullptr, [&] {
        c10d::TCPStoreOptions options;
        options.port = port;
        options.isServer = is_server != 0;
        options.waitWorkers = false;
        options.timeout = std::chrono::milliseconds(timeout_ms);
        if (listening >= 0) options.masterListenFd = listening;
        return new Store(c10::make_intrusive<c10d::TCPStore>(host, options));
    });
}

extern "C" void atp_store_close(Store* store) { delete store; }

extern "C" int atp_store_set(Store* store, const char* key, const uint8_t* bytes, size_t length, char** error) {
    return guarded(error, 0, [&] {
        (*store)->set(key, std::vector<uint8_t>(bytes, bytes + length));
        return 1;
    });
}

// Waits for the key. The bytes are the caller's to free.
extern "C" uint8_t* atp_store_get(Store* store, const char* key, size_t* length, char** error) {
    return guarded<uint8_t*>(error, nullptr, [&] {
        const auto value = (*store)->get(key);
        auto* bytes = static_cast<uint8_t*>(malloc(value.size() + 1));
        if (!bytes) throw std::bad_alloc();
        memcpy(bytes, value.data(), value.size());
        *length = value.size();
        return bytes;
    });
}

// Whether the key is there: 1 or 0, or −1 with an error.
extern "C" int atp_store_check(Store* store, const char* key, char** error) {
    return guarded(error, -1, [&] { return (*store)->check({key}) ? 1 : 0; });
}

// Adds to the number under the key and gives what it is then; −1 with an error.
extern "C" int64_t atp_store_add(Store* store, const char* key, int64_t by, char** error) {
    return guarded<int64_t>(error, -1, [&] { return (*store)->add(key, by); });
}

// Connects this rank to all others. An address or an interface's name says by which network; both null leave it to the
// host's name.
extern "C" Group* atp_gloo_open(Store* store, int rank, int size, int64_t timeout_ms, const char* address,
                                const char* interface, char** error) {
    return guarded<Group*>(error, nullptr, [&] {
        using c10d::ProcessGroupGloo;
        auto options = ProcessGroupGloo::Options::create(std::chrono::milliseconds(timeout_ms));
        options->devices.push_back(interface ? ProcessGroupGloo::createDeviceForInterface(interface)
                                   : address ? ProcessGroupGloo::createDeviceForHostname(address)
                                             : ProcessGroupGloo::createDefaultDevice());
        return new Group(c10::make_intrusive<ProcessGroupGloo>(*store, rank, size, options));
    });
}

extern "C" void atp_gloo_close(Group* group) { delete group; }

// The sum over all ranks, in place.
extern "C" int atp_gloo_sum(Group* group, const at::Tensor* tensor, char** error) {
    return guarded(error, 0, [&] {
        std::vector<at::Tensor> tensors{*tensor};
        c10d::AllreduceOptions options;
        options.timeout = Patience;
        (*group)->allreduce(tensors, options)->wait();
        return 1;
    });
}

// Every rank's `part` in rank order, one behind the other, into `all`.
extern "C" int atp_gloo_gather(Group* group, const at::Tensor* part, const at::Tensor* all, char** error) {
    return guarded(error, 0, [&] {
        at::Tensor input = *part, output = *all;
        c10d::AllgatherOptions options;
        options.timeout = Patience;
        (*group)->_allgather_base(output, input, options)->wait();
        return 1;
    });
}

// The tensor of rank `root`, into everybody's.
extern "C" int atp_gloo_broadcast(Group* group, const at::Tensor* tensor, int root, char** error) {
    return guarded(error, 0, [&] {
        std::vector<at::Tensor> tensors{*tensor};
        c10d::BroadcastOptions options;
        options.rootRank = root;
        options.timeout = Patience;
        (*group)->broadcast(tensors, options)->wait();
        return 1;
    });
}
