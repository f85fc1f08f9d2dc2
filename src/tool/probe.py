"""Says where a Python keeps what the sandbox has to let it read; key, tab, value. Runs outside of the sandbox."""
import ctypes, os, site, sys, sysconfig, zlib  # noqa: the extension modules map the libraries that are listed below

base = getattr(sys, "_base_executable", None) or sys.executable
print("executable", os.path.realpath(base), sep="\t")
print("version", "%d.%d" % sys.version_info[:2], sep="\t")
print("implementation", sys.implementation.name, sep="\t")
print("home", sys.base_prefix + ":" + sys.base_exec_prefix, sep="\t")
standard = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]
standard += [os.path.join(path, "lib-dynload") for path in standard]
for path in dict.fromkeys(os.path.realpath(path) for path in standard):
    # A virtual environment has its own `platstdlib`, which holds no standard library.
    if os.path.isfile(os.path.join(path, "os.py")) or path.endswith("lib-dynload") and os.path.isdir(path):
        print("standard", path, sep="\t")
for path in dict.fromkeys([*site.getsitepackages(), site.getusersitepackages()]):
    if os.path.isdir(path):
        print("site", path, sep="\t")
with open("/proc/self/maps") as maps:
    mapped = {line.split(None, 5)[5].strip() for line in maps if line.count("/") and ".so" in line}
for path in sorted(os.path.realpath(path) for path in mapped if path.startswith("/")):
    print("library", path, sep="\t")
