"""Attacks on what is outside: the network, other people's secrets, other people's files and processes."""

from sandbox_attacks import family

NETWORK = [
    *family(
        "network",
        {
            "tcp": "quietly(lambda: socket.create_connection(('127.0.0.1', @tcp@), 1))",
            "udp": "quietly(lambda: socket.socket(2, 2).sendto(b'secret', ('127.0.0.1', @udp@)))",
            "host's unix socket": "s = socket.socket(socket.AF_UNIX); quietly(s.connect, '@unix@')",
            "host's abstract unix socket": "s = socket.socket(socket.AF_UNIX); quietly(s.connect, '\\0@marker@')",
            "descriptor sent to the host": """
s = socket.socket(socket.AF_UNIX)
quietly(lambda: (s.connect('\\0@marker@'), socket.send_fds(s, [b'x'], [1])))
""",
        },
        control=True,
    ),
    *family("network", {"shell": "exec 3<>/dev/tcp/127.0.0.1/@tcp@"}, language="bash", control=True, tried=False),
    *family(
        "network",
        {
            "every family of sockets": """
for number in range(2, 50):
    for kind in (1, 2, 3, 5):
        try:
            socket.socket(number, kind)
            escaped("family", number, kind)
        except OSError:
            pass
""",
            "names": "quietly(lambda: escaped(socket.getaddrinfo('example.com', 80)))",
            "listening to all": "quietly(lambda: escaped(socket.create_server(('0.0.0.0', 0))))",
            "interfaces": """
lines = quietly(lambda: open('/proc/net/dev').readlines()) or []
others = [line for line in lines[2:] if not line.strip().startswith('lo:')]
if others: escaped(others)
""",
            "io_uring": "if call('io_uring_setup', 8, ctypes.create_string_buffer(120)) >= 0: escaped()",
        },
    ),
]

SECRETS = [
    *family(
        "secrets",
        {
            "file": "quietly(lambda: print(open('@secret@').read()))",
            "file by many steps up": "quietly(lambda: print(open('/tmp' + '/..' * 40 + '@secret@').read()))",
            "file by a symbolic link": "os.symlink('@secret@', 'l'); quietly(lambda: print(open('l').read()))",
            "file by a hard link": "quietly(lambda: (os.link('@secret@', 'h'), print(open('h').read())))",
            "shared memory of the host": "quietly(lambda: print(open('/dev/shm/@marker@').read()))",
            "everybody's environment": """
for name in os.listdir('/proc'):
    if name.isdigit():
        quietly(lambda: print(open(f'/proc/{name}/environ', 'rb').read()))
""",
            "own environment": "print(dict(os.environ), open('/proc/self/environ').read())",
            "everybody's root": """
for name in os.listdir('/proc'):
    if name.isdigit() and int(name) != os.getpid():
        quietly(lambda: print(open(f'/proc/{name}/root@secret@').read()))
        quietly(lambda: print(open(f'/proc/{name}/cwd/../../..@secret@').read()))
""",
        },
        control=True,
    ),
    *family(
        "secrets",
        {"shell": "cat @secret@; env; cat /proc/$PPID/environ; true"},
        language="shell",
        control=True,
        tried=False,
    ),
    *family(
        "secrets",
        {
            "the host's users": """
for path in ('/etc/passwd', '/etc/shadow', '/etc/group', '/etc/hosts', '/etc/machine-id', '/etc/resolv.conf'):
    quietly(lambda: escaped(path, open(path).read()))
""",
            "homes and data": """
for path in ('@home@', '/root', '/home', '/var', '/run', '/srv', '/mnt', '/opt', '/boot', '@repository@'):
    if os.path.exists(path): escaped(path)
""",
            "devices": """
for name in ('mem', 'kmsg', 'sda', 'vda', 'kvm', 'fuse', 'loop0', 'tty', 'ptmx', 'console', 'net/tun', 'zero'):
    quietly(lambda: escaped(name, open('/dev/' + name, 'rb').read(1)))
import stat
quietly(lambda: (os.mknod('/program/disk', stat.S_IFBLK | 0o600, os.makedev(254, 0)), escaped('a disk')))
""",
            "the kernel's log": "if call('syslog', 3, ctypes.create_string_buffer(4096), 4096) > 0: escaped()",
            "kernel memory": "quietly(lambda: escaped(open('/proc/kcore', 'rb').read(1)))",
            "/sys": "if os.path.exists('/sys/kernel'): escaped(os.listdir('/sys'))",
            "descriptors it was born with": """
names = [name for name in os.listdir('/proc/self/fd') if int(name) > 2]
kinds = [quietly(os.readlink, f'/proc/self/fd/{name}') for name in names]
kinds = [kind for kind in kinds if kind and not kind.startswith('/proc/')]
if kinds: escaped(kinds)
""",
            "the supervisor's descriptors": """
for name in quietly(os.listdir, '/proc/1/fd') or []:
    escaped(name)
for number in range(64):
    try:
        escaped(number, os.open(f'/proc/1/fd/{number}', os.O_RDWR))
    except OSError:
        pass
""",
            "the supervisor's memory": """
for name in ('mem', 'maps', 'environ', 'stack', 'auxv', 'syscall'):
    quietly(lambda: escaped(name, open(f'/proc/1/{name}', 'rb').read(1)))
""",
            "the supervisor's memory by a call": """
buffer = ctypes.create_string_buffer(64)
local = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 64)
remote = (ctypes.c_void_p * 2)(0x400000, 64)
if call('process_vm_readv', 1, local, 1, remote, 1, 0) > 0: escaped()
""",
            "the supervisor's descriptors by a call": """
descriptor = os.pidfd_open(1)
for number in range(64):
    if call('pidfd_getfd', descriptor, number, 0) >= 0: escaped(number)
""",
            "file by its handle": """
handle = ctypes.create_string_buffer((8).to_bytes(4, 'little') + (1).to_bytes(4, 'little') + bytes(8), 128)
for path in ('/usr', '/', '/etc/alternatives'):
    at = quietly(os.open, path, os.O_PATH | os.O_DIRECTORY)
    if at and call('open_by_handle_at', at, handle, 0) >= 0: escaped(path)
""",
            "keys of a session": "if call('keyctl', 0, -3, 0) >= 0: escaped()",
        },
    ),
]

WRITING = [
    *family(
        "writing",
        {
            "new file": "quietly(lambda: open('@drop@/new', 'w').write('x'))",
            "existing file": "quietly(lambda: open('@drop@/file', 'w').write('x'))",
            "by a symbolic link": "os.symlink('@drop@', 'd'); quietly(lambda: open('d/new', 'w').write('x'))",
            "by renaming": "open('f', 'w').close(); quietly(os.rename, '@drop@/file', '@drop@/file2')",
            "deleting": "quietly(os.remove, '@drop@/file')",
            "by the supervisor's root": "quietly(lambda: open(f'/proc/{os.getppid()}/root@drop@/new', 'w').write('x'))",
        },
        control=True,
    ),
    *family(
        "writing",
        {
            "system directories": """
for path in ('/usr/bin/x', '/usr/x', '/etc/x', '/bin/x', '/lib/x', '/x', '/dev/x', '/proc/x', '/usr/local/bin/x'):
    quietly(lambda: escaped(path, open(path, 'w')))
for path in ('/usr/bin/env', '/bin/sh', '/etc/alternatives'):
    quietly(lambda: escaped(path, os.chmod(path, 0o777)))
    quietly(lambda: escaped(path, os.rename(path, path + '~')))
""",
            "remounting": """
for path in (b'/', b'/usr', b'/dev', b'/proc'):
    if call('mount', b'none', path, b'none', 32, 0) == 0: escaped(path)
""",
            "kernel settings": """
for path in ('kernel/core_pattern', 'kernel/sysrq', 'kernel/hostname', 'vm/overcommit_memory', 'vm/drop_caches',
             'kernel/modprobe', 'user/max_user_namespaces', 'net/ipv4/ip_forward', 'kernel/pid_max'):
    quietly(lambda: (open('/proc/sys/' + path, 'w').write('1'), escaped(path)))
""",
            "sysrq": "quietly(lambda: (open('/proc/sysrq-trigger', 'w').write('h'), escaped()))",
            "out-of-memory scores": """
quietly(lambda: (open('/proc/self/oom_score_adj', 'w').write('-1000'), escaped()))
quietly(lambda: (open('/proc/1/oom_score_adj', 'w').write('1000'), escaped()))
""",
            "maps of users": """
for name in ('uid_map', 'gid_map', 'setgroups'):
    quietly(lambda: (open('/proc/self/' + name, 'w').write('0 0 1'), escaped(name)))
""",
            "hard links to system files": "quietly(lambda: escaped(os.link('/usr/bin/env', '/program/p')))",
            "control groups": """
for path in ('/sys/fs/cgroup', '/program/cgroup'):
    os.makedirs('/program/cgroup', exist_ok=True)
    if call('mount', b'cgroup2', b'/program/cgroup', b'cgroup2', 0, 0) == 0: escaped()
""",
        },
    ),
]

SIGNALS = [
    *family(
        "signals",
        {
            "a process outside": "quietly(os.kill, @victim@, 9)",
            "stop a process outside": "quietly(os.kill, @victim@, 19)",
            "by descriptor": "quietly(lambda: signal.pidfd_send_signal(os.pidfd_open(@victim@), 9))",
        },
        control=True,
    ),
    *family(
        "signals",
        {
            "everybody": "quietly(os.kill, -1, 15)",
            "its parent": "quietly(os.kill, os.getppid(), 9); quietly(os.kill, @runner@, 9)",
            "everything to the supervisor": """
for number in range(1, 65):
    quietly(os.kill, 1, number)
    if number not in (32, 33): quietly(lambda: signal.pidfd_send_signal(os.pidfd_open(1), number))
time.sleep(0.1)
""",
            "groups": "quietly(os.killpg, 1, 9); quietly(os.killpg, os.getpgid(1), 9); quietly(os.kill, 0, 0)",
            "the supervisor's limits": """
import resource
for name in ('CPU', 'NPROC', 'NOFILE', 'FSIZE', 'AS', 'DATA'):
    kind = getattr(resource, 'RLIMIT_' + name)
    quietly(lambda: escaped(name, resource.prlimit(1, kind, (0, 0))))
""",
            "the supervisor's priority": """
quietly(lambda: escaped(os.setpriority(os.PRIO_PROCESS, 1, 19)))
quietly(lambda: escaped(os.setpriority(os.PRIO_USER, os.getuid(), 19)))
quietly(lambda: escaped(os.sched_setaffinity(1, {0})))
quietly(lambda: escaped(os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0))))
""",
        },
        ends=("exited",),
    ),
    *family(
        "signals",
        {
            "trace the supervisor": "if call('ptrace', 16, 1, 0, 0) == 0: escaped()",
            "seize the supervisor": "if call('ptrace', 0x4206, 1, 0, 0) == 0: escaped()",
            "trace a process outside": "if call('ptrace', 16, @victim@, 0, 0) == 0: escaped()",
        },
    ),
]
ATTACKS = [*NETWORK, *SECRETS, *WRITING, *SIGNALS]
