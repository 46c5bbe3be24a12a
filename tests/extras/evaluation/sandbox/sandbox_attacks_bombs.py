"""Attacks on shared resources: processes, memory, disk, output and time."""

from sandbox_attacks import BRIEF, MIB, SMALL, Attack, family

PROCESSES = [
    *family(
        "processes",
        {
            "fork bomb": """
count = 0
try:
    while count < 400:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        count += 1
except OSError as error:
    print(error)
if count >= 40: escaped(count)
""",
            "threads": """
started = []
try:
    while len(started) < 400:
        thread = threading.Thread(target=time.sleep, args=(60,), daemon=True)
        thread.start()
        started.append(thread)
except RuntimeError as error:
    print(error)
if len(started) >= 40: escaped(len(started))
os._exit(0)
""",
            "inotify instances": """
count = 0
while count < 100 and libc.inotify_init() >= 0:
    count += 1
if count > 16: escaped(count)
""",
            "zombies": """
count = 0
try:
    while count < 400:
        if os.fork() == 0:
            os._exit(0)
        count += 1
except OSError as error:
    print(error)
if count >= 40: escaped(count)
""",
        },
        ends=("exited",),
    ),
    *family(
        "processes",
        {
            "forks of forks": """
while True:
    try:
        os.fork()
    except OSError:
        pass
    numbers = [name for name in os.listdir('/proc') if name.isdigit()]
    if len(numbers) > 42: escaped(len(numbers))
""",
        },
        limits=BRIEF,
        ends=("timeout",),
    ),
    Attack("processes: shell bomb", "processes", (":(){ :|:& };:\nsleep 60",), "bash", BRIEF, tried=False),
    Attack(
        "processes: bomb in sessions of their own",
        "processes",
        (
            """
#include <signal.h>
#include <stdio.h>
#include <unistd.h>
int main(void) {
    signal(SIGTERM, SIG_IGN);
    for (;;) if (fork() == 0) setsid();
}
""",
        ),
        "c",
        BRIEF,
        ends=("timeout", "killed", "memory"),
        tried=False,
    ),
]

HOG = """
def pages(size):
    data = bytearray(size)
    data[::4096] = b'x' * len(data[::4096])
    return data
"""
FILL = """
total = 0
try:
    for number in range(1000):
        with open(f'@place@/{number}', 'wb') as file:
            total += file.write(b'x' * (1 << 20))
except OSError as error:
    print(error)
if total > @limit@ << 20: escaped(total)
time.sleep(0.2)
"""


def filling(place: str, limit: int) -> str:
    return FILL.replace("@place@", place).replace("@limit@", str(limit))


MEMORY = [
    *family(
        "memory",
        {
            "one process": HOG
            + """
kept = []
for number in range(1000):
    kept.append(pages(8 << 20))
    time.sleep(0.001)
escaped()
""",
            "many processes": HOG
            + """
for number in range(12):
    if os.fork() == 0:
        kept = pages(48 << 20)
        time.sleep(60)
        os._exit(0)
time.sleep(10)
escaped()
""",
        },
        ends=("memory",),
    ),
    *family(
        "memory",
        {
            "shared pages that are let go": """
import mmap
kept = []
for number in range(60):
    area = mmap.mmap(-1, 8 << 20)
    area[::4096] = b'x' * len(area[::4096])
    area.madvise(mmap.MADV_DONTNEED)
    kept.append(area)
escaped()
""",
            "page tables": """
import mmap
areas = []
for number in range(4):
    area = mmap.mmap(-1, 1 << 38, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, prot=mmap.PROT_READ)
    for position in range(0, 1 << 38, 1 << 21): area[position]
    areas.append(area)
escaped()
""",
            "socket buffers": """
import resource
pairs = []
for child in range(30):
    if os.fork() == 0: break
try:
    while True:
        a, b = socket.socketpair()
        a.setblocking(False)
        pairs.append((a, b))
        try:
            while True: a.send(bytes(1 << 16))
        except BlockingIOError:
            pass
except OSError:
    pass
time.sleep(10)
escaped(len(pairs))
""",
        },
        ends=("exited", "memory", "killed"),
    ),
    *family(
        "memory",
        {"one senseless request": "bytearray(1 << 40); escaped()"},
        ends=("exited",),
    ),
    Attack(
        "memory: native",
        "memory",
        (
            """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(void) {
    for (int i = 0; i < 100; i++) { char *p = malloc(16 << 20); if (!p) return 1; memset(p, 1, 16 << 20); }
    puts("ESCAPED");
}
""",
        ),
        "c",
        ends=("memory",),
        tried=False,
    ),
]

DISK = [
    *family(
        "disk",
        {
            "working directory": filling("/program", 16),
            "/tmp": filling("/tmp", 16),
            "/dev/shm": filling("/dev/shm", 64),
            "one big file": """
with open('big', 'wb') as file:
    for number in range(100):
        file.write(bytes(1 << 20))
        file.flush()
escaped()
""",
            "a file with a hole": "quietly(lambda: escaped(os.truncate('h', 1 << 40))) if open('h', 'w') else 0",
            "allocation": """
with open('a', 'wb') as file:
    quietly(lambda: escaped(os.posix_fallocate(file.fileno(), 0, 1 << 30)))
""",
            "two directories": """
for place in ('/program', '/tmp', '/dev/shm'):
    for number in range(2):
        with open(f'{place}/{number}', 'wb') as file:
            quietly(file.write, bytes(6 << 20))
time.sleep(10)
escaped()
""",
            "many files": """
for number in range(3_000_000):
    os.mknod(f'/program/{number}')
    if number > 1_000_000: escaped(number)
""",
        },
        ends=("exited", "killed"),
    ),
    Attack("disk: core dump", "disk", ("import resource\nos.abort()",), limits=SMALL, ends=("signalled",)),
]

OUTPUT = family(
    "output",
    {
        "endless": "while True: os.write(1, b'x' * 65536)",
        "endless errors": "while True: os.write(2, b'x' * 65536)",
        "endless zeros": "while True: os.write(1, bytes(65536))",
        "by a child": "os.fork() or all(os.write(1, b'y' * 65536) for _ in iter(int, 1)); time.sleep(5)",
        "and pretending to be done": """
while True:
    try:
        os.write(1, b'x' * 65536)
    except OSError:
        os._exit(0)
""",
    },
    ends=("output",),
)

TIME = family(
    "time",
    {
        "sleeping": "time.sleep(60)",
        "burning": "while True: pass",
        "deaf to signals": """
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True: pass
""",
        "stopped": "os.kill(os.getpid(), 19)",
        "many burning": """
for number in range(20): os.fork() or any(iter(int, 1))
time.sleep(60)
""",
        "holding its standard streams": """
for number in range(3): os.close(number)
time.sleep(60)
""",
    },
    limits=BRIEF,
    ends=("timeout",),
)
ATTACKS: list[Attack] = [*PROCESSES, *MEMORY, *DISK, *OUTPUT, *TIME]
assert SMALL.output == MIB
