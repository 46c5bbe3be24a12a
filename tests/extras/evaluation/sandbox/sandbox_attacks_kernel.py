"""Attacks on the kernel: system calls that make namespaces, mounts, other users; terminals; other ABIs."""

from sandbox_attacks import Attack, family

CALLS = {
    "mount": "b'none', b'/program', b'tmpfs', 0, 0",
    "umount2": "b'/proc', 2",
    "pivot_root": "b'/program', b'/program'",
    "chroot": "b'/program'",
    "fsopen": "b'tmpfs', 0",
    "open_tree": "-100, b'/usr', 1",
    "mount_setattr": "-100, b'/usr', 0x8000, ctypes.create_string_buffer(32), 32",
    "unshare": "0x10000000",
    "setns": "os.open('/proc/self/ns/mnt', 0), 0",
    "bpf": "0, ctypes.create_string_buffer(b'\\x02\\0\\0\\0\\x04\\0\\0\\0\\x04\\0\\0\\0\\x01', 120), 120",
    "perf_event_open": "ctypes.create_string_buffer(b'\\x01\\0\\0\\0\\x80\\0\\0\\0', 128), 0, -1, -1, 0",
    "userfaultfd": "1",
    "fanotify_init": "0, 0",
    "add_key": "b'user', b'name', b'value', 5, -3",
    "request_key": "b'user', b'name', 0, -3",
    "init_module": "b'x', 1, b''",
    "finit_module": "0, b'', 0",
    "kexec_load": "0, 0, 0, 0",
    "swapon": "b'/program/swap', 0",
    "reboot": "0xfee1dead, 672274793, 0, 0",
    "acct": "b'/program/log'",
    "settimeofday": "(ctypes.c_long * 2)(1, 1), 0",
    "sethostname": "b'x', 1",
    "quotactl": "0x80000100, 0, 0, 0",
    "personality": "0x0040000",
    "memfd_create": "b'x', 0",
    "shmget": "0, 1 << 20, 0o1600",
    "msgget": "0, 0o1600",
    "kcmp": "1, os.getpid(), 0, 0, 0",
    "name_to_handle_at": "-100, b'/usr', ctypes.create_string_buffer((128).to_bytes(4, 'little'), 256), "
    "ctypes.byref(ctypes.c_int()), 0",
}
SIMPLE = family("calls", {name: f"if call({name!r}, {words}) >= 0: escaped()" for name, words in CALLS.items()})

NAMESPACES = family(
    "calls",
    {
        f"clone with a new {name} namespace": f"""
child = call('clone', {flag} | 17, 0, 0, 0, 0)
if child == 0: os._exit(0)
if child > 0: escaped()
"""
        for name, flag in {"user": 1 << 28, "mount": 1 << 17, "pid": 1 << 29, "network": 1 << 30}.items()
    }
    | {
        "clone3 with a new user namespace": """
arguments = ctypes.create_string_buffer((1 << 28).to_bytes(8, 'little') + bytes(24) + (17).to_bytes(8, 'little'), 88)
child = call('clone3', arguments, 88)
if child == 0: os._exit(0)
if child > 0: escaped()
""",
        "the supervisor's namespaces": """
for name in ('mnt', 'net', 'user', 'pid', 'ipc', 'uts'):
    descriptor = quietly(os.open, f'/proc/1/ns/{name}', 0)
    if descriptor: escaped(name)
""",
    },
)

USERS = family(
    "users",
    {
        "setuid": "quietly(lambda: escaped(os.setuid(0)))",
        "setgid and groups": """
quietly(lambda: escaped(os.setgid(0)))
quietly(lambda: escaped(os.setgroups([0])))
""",
        "setresuid": "quietly(lambda: escaped(os.setresuid(0, 0, 0)))",
        "capabilities": """
status = open('/proc/self/status').read()
for line in status.splitlines():
    if line.startswith(('CapEff', 'CapPrm', 'CapInh', 'CapAmb')) and int(line.split()[1], 16): escaped(line)
    if line.startswith('NoNewPrivs') and line.split()[1] != '1': escaped(line)
    if line.startswith('Seccomp:') and line.split()[1] != '2': escaped(line)
""",
        "a setuid file of its own": """
import shutil
shutil.copy('/usr/bin/id', 'id')
quietly(os.chown, 'id', 0, 0)
os.chmod('id', 0o6755)
if b'uid=0' in subprocess.run(['./id'], capture_output=True).stdout: escaped()
""",
        "setuid programs": """
for words in (['su', '-c', 'id'], ['sudo', '-n', 'id'], ['mount'], ['newgrp'], ['pkexec', 'id'], ['passwd', '-d', 'x']):
    try:
        done = subprocess.run(words, capture_output=True, timeout=1, stdin=subprocess.DEVNULL)
        if b'uid=0' in done.stdout: escaped(words)
    except (OSError, subprocess.SubprocessError):
        pass
""",
        "file capabilities": """
value = b'\\x01\\0\\0\\x02' + b'\\xff' * 16
open('f', 'w').close()
quietly(lambda: escaped(os.setxattr('f', 'security.capability', value)))
""",
        "tools that make namespaces": """
for words in (['unshare', '-r', 'id'], ['bwrap', '--unshare-user', '--uid', '0', '--ro-bind', '/', '/', 'id'],
              ['nsenter', '-t', '1', '-a', 'id'], ['unshare', '-rm', 'mount', '-t', 'tmpfs', 'none', '/program']):
    try:
        done = subprocess.run(words, capture_output=True, timeout=1)
        if done.returncode == 0: escaped(words, done.stdout)
    except (OSError, subprocess.SubprocessError):
        pass
""",
    },
)

TERMINALS = family(
    "terminal",
    {
        "typing into it": """
import fcntl
for number in (0, 1, 2):
    quietly(lambda: escaped(fcntl.ioctl(number, 0x5412, b'x')))
""",
        "the controlling one": "quietly(lambda: escaped(open('/dev/tty', 'r+b', buffering=0)))",
        "a new one": "import pty; quietly(lambda: escaped(pty.openpty()))",
        "any": """
for name in ['tty', 'ptmx', 'console', 'pts/0', 'pts/1', 'pts/ptmx', *(f'tty{n}' for n in range(8)), 'ttyS0']:
    quietly(lambda: escaped(name, os.open('/dev/' + name, os.O_RDWR | os.O_NOCTTY)))
""",
        "being in the runner's session": "if os.getsid(0) != os.getpid(): escaped(os.getsid(0))",
        "control characters": """
sys.stdout.buffer.write(b'\\x1b]0;title\\x07\\x1b[2J\\x1bc\\0\\xff\\xfe\\x1b[5n' * 100)
""",
    },
    ends=("exited",),
)

NATIVE = family(
    "native code",
    {
        "32-bit system calls": """
#include <stdio.h>
int main(void) {
#ifdef __x86_64__
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory");  /* getpid of the other ABI */
    if (result > 0) puts("ESCAPED");
#endif
    return 0;
}
""",
        "x32 system calls": """
#include <stdio.h>
int main(void) {
#ifdef __x86_64__
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(0x40000000L + 39) : "rcx", "r11", "memory");
    if (result > 0) puts("ESCAPED");
#endif
    return 0;
}
""",
    },
    language="c",
    tried=False,
)
ATTACKS: list[Attack] = [*SIMPLE, *NAMESPACES, *USERS, *TERMINALS, *NATIVE]
