// A disk that kills, fills up or turns read-only at a chosen operation, and a clock that goes back: a library that is
// preloaded (LD_PRELOAD) between the program under test and the C library. The program knows nothing of it, so every
// change it makes to the disk is met, also one that nobody thought of marking.
//
// ATP_DISK_ROOT=path        only what happens at or below this absolute path counts
// ATP_DISK_LOG=file         a line an operation: number, name, path (of a rename: from, to); fsyncs have number 0
// ATP_DISK_KILL=n[:when]    SIGKILL at the n-th operation: `before` it, `half` way through a write, `after` it
// ATP_DISK_FAIL=n:errno     from the n-th operation on, changes fail with this error number; with ENOSPC and EDQUOT
//                           only those that need room, and the first write stores half of its bytes, as on a disk that fills up
// ATP_LOCK_ERROR=errno      locks are refused with this error number, as by another host or a file system without locks
// ATP_HOST=name             the machine has this name, and its locks are not seen by others
// ATP_CLOCK_BACK=seconds    each look at the wall clock gives this much less than the one before

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <string>

namespace {

enum When { Before, Half, After };

struct Plan {
    std::string root;
    int log = -1;
    long kill_at = 0;
    When when = Before;
    long fail_from = 0;
    int error = 0;
    long back = 0;
    int lock_error = 0;
};

std::atomic<long> count{0};
std::atomic<long> looks{0};
// Paths of open descriptors below the root. A path is set at open and left to leak: there are few.
const int DESCRIPTORS = 4096;
std::atomic<const char *> opened[DESCRIPTORS];

const char *variable(const char *name) {
    const char *text = getenv(name);
    return text && *text ? text : nullptr;
}

const Plan &plan() {
    static const Plan made = [] {
        Plan plan;
        if (const char *root = variable("ATP_DISK_ROOT")) plan.root = root;
        if (const char *file = variable("ATP_DISK_LOG"))
            plan.log = (int)syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        if (const char *kill = variable("ATP_DISK_KILL")) {
            char *rest;
            plan.kill_at = strtol(kill, &rest, 10);
            plan.when = !strcmp(rest, ":half") ? Half : !strcmp(rest, ":after") ? After : Before;
        }
        if (const char *fail = variable("ATP_DISK_FAIL")) {
            char *rest;
            plan.fail_from = strtol(fail, &rest, 10);
            plan.error = *rest == ':' ? atoi(rest + 1) : EIO;
        }
        if (const char *back = variable("ATP_CLOCK_BACK")) plan.back = atol(back);
        if (const char *error = variable("ATP_LOCK_ERROR")) plan.lock_error = atoi(error);
        // Children of the program are not under test.
        unsetenv("LD_PRELOAD");
        return plan;
    }();
    return made;
}

__attribute__((constructor)) void begin() { plan(); }

std::string absolute(int folder, const char *path) {
    if (path[0] == '/') return path;
    char base[PATH_MAX];
    if (folder == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) return path;
    } else {
        std::string link = "/proc/self/fd/" + std::to_string(folder);
        ssize_t length = readlink(link.c_str(), base, sizeof base - 1);
        if (length < 0) return path;
        base[length] = 0;
    }
    return std::string(base) + "/" + path;
}

bool inside(const std::string &path) {
    const std::string &root = plan().root;
    return !root.empty() && path.compare(0, root.size(), root) == 0 &&
           (path.size() == root.size() || path[root.size()] == '/');
}

std::string shown(const std::string &path) {
    return path.size() > plan().root.size() ? path.substr(plan().root.size() + 1) : ".";
}

void note(long number, const char *what, const std::string &path) {
    if (plan().log < 0) return;
    std::string line = std::to_string(number) + " " + what + " " + path + "\n";
    syscall(SYS_write, plan().log, line.data(), line.size());
}

[[noreturn]] void die() {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

bool failing(long number, bool needs_room) {
    const Plan &p = plan();
    return p.fail_from && number >= p.fail_from && (needs_room || (p.error != ENOSPC && p.error != EDQUOT));
}

// An operation that changes the disk.
struct Operation {
    long number = 0;
    bool fails = false;

    Operation(const char *what, const std::string &path, bool needs_room) {
        number = ++count;
        note(number, what, path);
        if (number == plan().kill_at && plan().when == Before) die();
        fails = failing(number, needs_room);
        if (fails) errno = plan().error;
    }
    // After it: die if it was the one.
    template <class T> T done(T result) const {
        int saved = errno;
        if (number == plan().kill_at) die();
        errno = saved;
        return result;
    }
};

const char *path_of(int descriptor) {
    return descriptor >= 0 && descriptor < DESCRIPTORS ? opened[descriptor].load() : nullptr;
}

template <class F> F next(const char *name) { return (F)dlsym(RTLD_NEXT, name); }

int open_at(int folder, const char *path, int flags, mode_t mode) {
    auto go = [&] { return (int)syscall(SYS_openat, folder, path, flags, mode); };
    std::string full = absolute(folder, path);
    if (!inside(full)) return go();
    bool writes = (flags & O_ACCMODE) != O_RDONLY;
    struct stat found;
    bool exists = fstatat(folder, path, &found, 0) == 0;
    int descriptor;
    if ((flags & O_CREAT) && !exists) {
        Operation operation("create", shown(full), true);
        if (operation.fails) return -1;
        descriptor = operation.done(go());
    } else if (writes && (flags & O_TRUNC)) {
        Operation operation("truncate", shown(full), false);
        if (operation.fails) return -1;
        descriptor = operation.done(go());
    } else {
        if (writes && failing(count.load() + 1, false)) {
            errno = plan().error;
            return -1;
        }
        descriptor = go();
    }
    if (descriptor >= 0 && descriptor < DESCRIPTORS) opened[descriptor] = strdup(shown(full).c_str());
    return descriptor;
}

// `store(n)` writes the first n bytes.
template <class F> ssize_t write_to(int descriptor, size_t length, F store) {
    const char *path = path_of(descriptor);
    if (!path || length == 0) return store(length);
    Operation operation("write", path, true);
    if (operation.number == plan().kill_at && plan().when == Half) {
        store(length / 2);
        die();
    }
    if (operation.fails) {
        if (operation.number == plan().fail_from && plan().error == ENOSPC && length > 1) return store(length / 2);
        return -1;
    }
    return operation.done(store(length));
}

template <class F> int change(const char *what, const std::string &path, bool needs_room, F go) {
    Operation operation(what, path, needs_room);
    return operation.fails ? -1 : operation.done(go());
}

int sync_with(const char *name, int descriptor) {
    if (const char *path = path_of(descriptor)) note(0, "fsync", path);
    return next<int (*)(int)>(name)(descriptor);
}

bool tells_wall_time(clockid_t clock) { return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE; }

} // namespace

extern "C" {

#define OPEN(NAME)                                                                                                     \
    int NAME(const char *path, int flags, ...) {                                                                       \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                        \
        va_end(rest);                                                                                                  \
        return open_at(AT_FDCWD, path, flags, mode);                                                                   \
    }
#define OPENAT(NAME)                                                                                                   \
    int NAME(int folder, const char *path, int flags, ...) {                                                           \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                        \
        va_end(rest);                                                                                                  \
        return open_at(folder, path, flags, mode);                                                                     \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

int close(int descriptor) {
    if (descriptor >= 0 && descriptor < DESCRIPTORS) opened[descriptor] = nullptr;
    return (int)syscall(SYS_close, descriptor);
}

ssize_t write(int descriptor, const void *bytes, size_t length) {
    return write_to(descriptor, length, [&](size_t n) { return syscall(SYS_write, descriptor, bytes, n); });
}

ssize_t pwrite64(int descriptor, const void *bytes, size_t length, off64_t at) {
    return write_to(descriptor, length, [&](size_t n) { return syscall(SYS_pwrite64, descriptor, bytes, n, at); });
}

ssize_t writev(int descriptor, const struct iovec *parts, int number) {
    size_t length = 0;
    for (int i = 0; i < number; i++) length += parts[i].iov_len;
    return write_to(descriptor, length, [&](size_t n) -> ssize_t {
        if (n == length) return syscall(SYS_writev, descriptor, parts, number);
        std::string joined;
        for (int i = 0; i < number; i++) joined.append((const char *)parts[i].iov_base, parts[i].iov_len);
        return syscall(SYS_write, descriptor, joined.data(), n);
    });
}

static int cut(int descriptor, off64_t length) {
    auto go = [&] { return (int)syscall(SYS_ftruncate, descriptor, length); };
    const char *path = path_of(descriptor);
    return path ? change("cut", path, false, go) : go();
}
int ftruncate(int descriptor, off_t length) noexcept { return cut(descriptor, length); }
int ftruncate64(int descriptor, off64_t length) noexcept { return cut(descriptor, length); }

int rename(const char *from, const char *to) noexcept {
    auto go = [&] { return (int)syscall(SYS_rename, from, to); };
    std::string source = absolute(AT_FDCWD, from), target = absolute(AT_FDCWD, to);
    if (!inside(target)) return go();
    return change("rename", shown(source) + " " + shown(target), false, go);
}

int unlinkat(int folder, const char *path, int flags) noexcept {
    auto go = [&] { return (int)syscall(SYS_unlinkat, folder, path, flags); };
    std::string full = absolute(folder, path);
    return inside(full) ? change("remove", shown(full), false, go) : go();
}
int unlink(const char *path) noexcept { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) noexcept { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdir(const char *path, mode_t mode) noexcept {
    auto go = [&] { return (int)syscall(SYS_mkdir, path, mode); };
    std::string full = absolute(AT_FDCWD, path);
    struct stat found;
    bool counts = inside(full) && stat(path, &found) != 0;
    return counts ? change("mkdir", shown(full), true, go) : go();
}

int symlink(const char *target, const char *path) noexcept {
    auto go = [&] { return (int)syscall(SYS_symlinkat, target, AT_FDCWD, path); };
    std::string full = absolute(AT_FDCWD, path);
    return inside(full) ? change("symlink", shown(full), true, go) : go();
}

int fsync(int descriptor) { return sync_with("fsync", descriptor); }
int fdatasync(int descriptor) { return sync_with("fdatasync", descriptor); }

int gethostname(char *name, size_t length) noexcept {
    if (const char *host = variable("ATP_HOST")) {
        strncpy(name, host, length);
        return 0;
    }
    static auto real = next<int (*)(char *, size_t)>("gethostname");
    return real(name, length);
}

int flock(int descriptor, int operation) noexcept {
    if (path_of(descriptor) && variable("ATP_HOST")) return 0;
    if (plan().lock_error && path_of(descriptor) && !(operation & LOCK_UN)) {
        errno = plan().lock_error;
        return -1;
    }
    return (int)syscall(SYS_flock, descriptor, operation);
}

int clock_gettime(clockid_t clock, struct timespec *now) noexcept {
    static auto real = next<int (*)(clockid_t, struct timespec *)>("clock_gettime");
    int status = real(clock, now);
    if (status == 0 && plan().back && tells_wall_time(clock)) now->tv_sec -= plan().back * ++looks;
    return status;
}

} // extern "C"
