"""Attacks on the verdict: outliving the end, forging reports, reaching the next command or the next program."""

from sandbox_attacks import BRIEF, family, prelude

SLEEPER = "[sys.executable, '-c', 'import time; time.sleep(600)', '@marker@']"
SURVIVORS = [
    *family(
        "survivors",
        {
            "child": f"subprocess.Popen({SLEEPER})",
            "child in a session of its own": f"subprocess.Popen({SLEEPER}, start_new_session=True)",
            "grandchild": f"""
heard, said = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        words = {SLEEPER}
        os.execv(words[0], words)  # closes the pipe
    os._exit(0)
os.close(said)
os.read(heard, 1)
""",
            "child deaf to signals": f"""
signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGHUP, signal.SIG_IGN)
subprocess.Popen({SLEEPER})
""",
        },
        control=True,
        ends=("exited",),
    ),
    *family(
        "survivors",
        {
            "shell": "trap '' HUP TERM\nnohup python3 -c 'import time; time.sleep(600)' @marker@ >/dev/null 2>&1 &\n"
            "until case $(tr '\\0' ' ' </proc/$!/cmdline) in *@marker@*) true ;; *) false ;; esac; do sleep 0.02; done"
        },
        language="shell",
        control=True,
        tried=False,
        ends=("exited",),
    ),
    *family(
        "survivors",
        {
            "of a timeout": f"""
for number in range(5): subprocess.Popen({SLEEPER}, start_new_session=True)
time.sleep(60)
""",
        },
        limits=BRIEF,
        ends=("timeout",),
    ),
    *family(
        "survivors",
        {
            "that fork on": f"""
words = {SLEEPER}
for number in range(4):
    if os.fork() == 0:
        os.setsid()
        while True:
            if os.fork(): os._exit(0)
            os.setsid()
""",
        },
    ),
]

REPORTS = [
    *family(
        "reports",
        {
            "to every descriptor": """
for number in range(3, 1024):
    try:
        os.write(number, b'ready\\nexited 0 0.1\\n')
        escaped(number)
    except OSError:
        pass
sys.exit(3)
""",
            "to the supervisor's descriptors": """
for number in range(64):
    try:
        with open(f'/proc/1/fd/{number}', 'wb', buffering=0) as file:
            file.write(b'exited 0 0.1\\n')
            escaped(number)
    except OSError:
        pass
sys.exit(3)
""",
            "to the sockets there are": """
for line in (quietly(lambda: open('/proc/net/unix').readlines()) or [])[1:]:
    path = line.split()[7:]
    if path: escaped(path)
""",
            "to its parent's streams": """
for number in range(3):
    try:
        os.write(os.open(f'/proc/{os.getppid()}/fd/{number}', os.O_WRONLY), b'exited 0 0.1\\n')
        escaped(number)
    except OSError:
        pass
""",
        },
    ),
    *family(
        "reports",
        {
            "on its output, then a crash": "os.write(1, b'ready\\nexited 0 0.1\\n'); os.abort()",
            "killing itself": "os.kill(os.getpid(), 9)",
        },
        ends=("signalled",),
    ),
    *family(
        "reports",
        {
            "a forbidden call": "call('ptrace', 0, 0, 0, 0); escaped()",
            "a size": "open('f', 'wb').write(bytes(9 << 20))",
        },
        ends=("killed", "exited"),
    ),
]

NEXT = family(
    "next command",
    {
        "a process that waits for it": (
            """
if os.fork() == 0:
    os.setsid()
    for number in range(3): os.close(number)
    time.sleep(0.3)
    open('/program/flag', 'w').close()
    os._exit(0)
""",
            "time.sleep(0.6)\nif os.path.exists('/program/flag'): escaped()",
        ),
        "a process that is there": (
            "os.fork() or time.sleep(30)",
            """
numbers = {name for name in os.listdir('/proc') if name.isdigit()} - {'1', str(os.getpid())}
if numbers: escaped(numbers)
""",
        ),
        "a shared mapping of a file": (
            """
import mmap
with open('/program/shared', 'wb') as file: file.write(bytes(4096))
if os.fork() == 0:
    os.setsid()
    with open('/program/shared', 'r+b') as file: area = mmap.mmap(file.fileno(), 4096)
    while True: area[0] = (area[0] + 1) % 256
time.sleep(0.1)
""",
            """
before = open('/program/shared', 'rb').read()
time.sleep(0.2)
if open('/program/shared', 'rb').read() != before: escaped()
""",
        ),
        "its limits": (
            """
import resource
for name in ('NOFILE', 'NPROC', 'FSIZE', 'CPU'):
    resource.setrlimit(getattr(resource, 'RLIMIT_' + name), (1, 1)) if name != 'CPU' else 0
os.environ['LEFT'] = '1'; os.umask(0); os.chdir('/')
""",
            """
import resource
if resource.getrlimit(resource.RLIMIT_NOFILE)[0] != 128 or 'LEFT' in os.environ or os.getcwd() != '/program': escaped()
""",
        ),
    },
    ends=("exited",),
)
LEAVING = """
for place in ('/program', '/tmp', '/dev/shm', '/var/tmp', '/dev/mqueue', '/usr/local', '/run'):
    quietly(lambda: open(place + '/left', 'w').write('here'))
call('shmget', 4711, 4096, 0o1666)
"""
FINDING = """
for place in ('/program', '/tmp', '/dev/shm', '/var/tmp', '/dev/mqueue', '/usr/local', '/run'):
    if os.path.exists(place + '/left'): escaped(place)
"""
PRELUDE_ONLY = prelude()
ATTACKS = [*SURVIVORS, *REPORTS, *NEXT]
