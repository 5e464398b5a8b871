"""What the kernel says of processes and of the machine: CPU time, memory, name."""

import os
import platform
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid):
    """User plus system time of all threads of a process, ended ones too, in nanosecond steps.

    The clock whose id clock_getcpuclockid(3) makes; /proc/PID/stat shows the same in steps of 10 ms only.
    """
    return time.clock_gettime(~pid << 3 | 2)


def resident_bytes(pid):
    """Resident memory of a process."""
    return int(Path("/proc", str(pid), "statm").read_text().split()[1]) * PAGE


def busy_seconds():
    """CPU time that the machine has worked so far, time taken away by its host included."""
    user, nice, system, _idle, _wait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS


def environment(pid):
    """The environment that a process was started with."""
    pairs = Path("/proc", str(pid), "environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def description():
    """The machine in a line."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{os.cpu_count()} cores, {model}, Linux {platform.release()}"
