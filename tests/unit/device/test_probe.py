"""What is read of a system's small files: trees of such files, as machines have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgellm.device.condition import probe_condition
from edgellm.device.cpu import default_threads, probe_cpu
from edgellm.device.files import cgroups
from edgellm.device.profiles import GIB, this_machine
from edgellm.device.ram import probe_ram, vm_stat_pages

# The first lines of /proc/cpuinfo of a Raspberry Pi 5 (2.4 GHz), and of a Xeon, shortened.
PI = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1
"""  # noqa: E501
XEON = """processor\t: 0
model name\t: Intel(R) Xeon(R) Processor
flags\t\t: fpu sse4_2 avx f16c fma bmi2 avx2 avx512f avx512vbmi amx_tile amx_int8 avx512_vnni
"""


class Machine:
    """A folder that stands for `/`: four processors, two on each core."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for at, siblings in enumerate(("3", "3", "c", "c")):
            self.write(f"sys/devices/system/cpu/cpu{at}/topology/thread_siblings", siblings)

    def write(self, path: str, text: str) -> None:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text + "\n")

    def threads(self) -> int:
        return default_threads(self.root)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1, 2, 3}, raising=False)
    return Machine(tmp_path)


def test_threads_are_cores(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert machine.threads() == 2
    assert default_threads(tmp_path_factory.mktemp("empty")) == 4  # no file tells the cores


def test_a_quota_lowers_the_threads(machine: Machine) -> None:
    machine.write("sys/fs/cgroup/cgroup.controllers", "cpu memory")
    for text, threads in (
        ("max 100000", 2),
        ("150000 100000", 1),
        ("50000 100000", 1),
        ("nonsense", 2),
    ):
        machine.write("sys/fs/cgroup/cpu.max", text)
        assert machine.threads() == threads
    machine.write("sys/fs/cgroup/cpu.max", "150000 100000")
    assert probe_cpu(machine.root).quota == 1.5


def test_a_quota_of_an_older_kernel(machine: Machine) -> None:
    machine.write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000")
    machine.write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1")
    assert machine.threads() == 2
    machine.write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "100000")
    assert machine.threads() == 1


def test_the_group_of_the_process_and_those_around_it_limit_it(machine: Machine) -> None:
    machine.write("sys/fs/cgroup/cgroup.controllers", "cpu memory")
    machine.write("proc/self/cgroup", "0::/user.slice/run-1.scope")
    machine.write("sys/fs/cgroup/user.slice/cpu.max", "100000 100000")
    machine.write("sys/fs/cgroup/user.slice/run-1.scope/cpu.max", "max 100000")
    top = machine.root / "sys/fs/cgroup"
    assert cgroups("cpu", machine.root) == [
        top / "user.slice/run-1.scope",
        top / "user.slice",
        top,
    ]
    assert machine.threads() == 1
    machine.write("proc/self/cgroup", "0::/../../../../etc")
    assert cgroups("cpu", machine.root) == [top]


def test_slow_cores_are_left_out(machine: Machine) -> None:
    for fast, threads in (("0-1", 1), ("0,2-3", 2), ("8-15", 2), ("", 2)):
        machine.write("sys/devices/cpu_core/cpus", fast)
        assert machine.threads() == threads
    machine.write("sys/devices/cpu_core/cpus", "0-1")
    assert probe_cpu(machine.root).kinds == (2, 2)


def test_little_cores_of_arm_are_left_out_and_middle_ones_are_not(machine: Machine) -> None:
    for at, (siblings, capacity) in enumerate((("1", 1024), ("2", 760), ("4", 160), ("8", 160))):
        machine.write(f"sys/devices/system/cpu/cpu{at}/topology/thread_siblings", siblings)
        machine.write(f"sys/devices/system/cpu/cpu{at}/cpu_capacity", str(capacity))
    cpu = probe_cpu(machine.root)
    assert (cpu.physical, cpu.kinds, cpu.threads) == (4, (1, 1, 2), 2)


def test_a_raspberry_pi(machine: Machine) -> None:
    machine.write("proc/cpuinfo", PI)
    machine.write("proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    machine.write("sys/devices/system/cpu/cpu0/cache/index0/size", "64K")
    machine.write("sys/devices/system/cpu/cpu0/cache/index3/size", "2048K")
    cpu = probe_cpu(machine.root)
    assert cpu.name == "Raspberry Pi 5 Model B Rev 1.0, Cortex-A76"
    assert cpu.features == ("neon", "dotprod", "fp16")
    assert cpu.cache_bytes == 2 * 2**20
    machine.write("sys/devices/platform/soc/soc:firmware/get_throttled", "50005")
    machine.write("sys/class/thermal/thermal_zone0/temp", "61234")
    machine.write("sys/class/thermal/thermal_zone1/temp", "48000")
    machine.write("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "ondemand")
    for core, kilohertz in ((0, "1500000"), (1, "2400000")):
        machine.write(f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq", kilohertz)
    condition = probe_condition(machine.root)
    assert condition.frequency == 2.4e9
    assert condition.temperature == 61.234
    assert condition.governors == ("ondemand",)
    # 0x50005: bits 0, 2, 16 and 18
    assert condition.throttled == condition.throttled_before == ("under-voltage", "throttled")


def test_a_processor_with_a_name(machine: Machine) -> None:
    machine.write("proc/cpuinfo", XEON)
    cpu = probe_cpu(machine.root)
    assert cpu.name == "Intel(R) Xeon(R) Processor"
    assert cpu.features == (
        "sse4_2", "f16c", "fma", "avx", "avx2", "bmi2", "avx512f", "avx512vbmi", "avx512_vnni",
        "amx_tile", "amx_int8",
    )  # fmt: skip


def test_files_of_other_things_are_taken_for_nothing(machine: Machine) -> None:
    for path in (
        "proc/cpuinfo",
        "sys/class/thermal/thermal_zone0/temp",
        "sys/devices/system/cpu/cpu0/cpu_capacity",
        "sys/devices/system/cpu/cpu0/cache/index0/size",
        "sys/devices/cpu_core/cpus",
        "sys/devices/platform/soc/soc:firmware/get_throttled",
        "proc/swaps",
        "proc/self/cgroup",
    ):
        machine.write(path, "\0\xff: nonsense : : 99999999999999999999999 -\n:\n")
    cpu, condition = probe_cpu(machine.root), probe_condition(machine.root)
    assert (cpu.features, cpu.cache_bytes, cpu.threads) == ((), 0, 2)
    assert (condition.temperature, condition.throttled) == (None, ())


def test_memory_is_what_linux_says(machine: Machine) -> None:
    machine.write(
        "proc/meminfo",
        "MemTotal:        8000000 kB\nMemFree: 1 kB\nMemAvailable:    5000000 kB\n"
        "SwapTotal:        100000 kB\nSwapFree:          60000 kB",
    )
    machine.write(
        "proc/swaps", "Filename Type Size Used Priority\n/dev/zram0 partition 100000 40000 100"
    )
    ram = probe_ram(machine.root)
    assert (ram.total, ram.available) == (8_000_000 * 1024, 5_000_000 * 1024)
    assert (ram.swap_total, ram.swap_free) == (100_000 * 1024, 60_000 * 1024)
    assert (ram.swap_on, ram.limited) == ("zram", False)
    assert this_machine(machine.root).available == ram.available - GIB // 4
    machine.write("proc/swaps", "Filename\n/dev/zram0 partition\n/dev/mmcblk0p3 partition")
    assert probe_ram(machine.root).swap_on == "sd-card"


def test_the_limit_of_a_container_counts_without_its_caches_of_files(machine: Machine) -> None:
    machine.write("proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: 5000000 kB")
    group = "sys/fs/cgroup/"
    machine.write(group + "cgroup.controllers", "memory")
    machine.write(group + "memory.max", str(2 * GIB))
    machine.write(group + "memory.current", str(GIB))
    machine.write(
        group + "memory.stat", f"anon 7\ninactive_file {GIB // 4}\nactive_file {GIB // 4}"
    )
    ram = probe_ram(machine.root)
    assert (ram.total, ram.available, ram.limited) == (2 * GIB, 3 * GIB // 2, True)
    machine.write(group + "memory.max", "max")
    ram = probe_ram(machine.root)
    assert (ram.total, ram.limited) == (8_000_000 * 1024, False)


def test_without_meminfo_half_of_the_memory_is_available(tmp_path: Path) -> None:
    ram = probe_ram(tmp_path)
    assert ram.available == ram.total // 2 > 0


def test_pages_that_macos_can_give_away() -> None:
    report = (
        "Mach Virtual Memory Statistics: (page size of 16384 bytes)\n"
        "Pages free:                               10000.\n"
        "Pages active:                            300000.\n"
        "Pages inactive:                          200000.\n"
        "Pages speculative:                         5000.\n"
    )
    assert vm_stat_pages(report) == 215_000
    assert vm_stat_pages("no such report") == 0
