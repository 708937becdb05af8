//! Which calls, and why.

use std::collections::BTreeMap;

use libc::c_long;

use super::rule::{Answer, Rule, Test};
use crate::sandbox::plan::Filter;

/// A number that no kernel has, and the answer that only a filter of ours gives to it.
pub(super) const NOBODY: u32 = 0x0fff_fff0;
pub(super) const NOBODYS_ANSWER: i32 = libc::EDOTDOT;

const EPERM: Answer = Answer::Refuse(libc::EPERM);
const ENOSYS: Answer = Answer::Refuse(libc::ENOSYS);
const NO_FAMILY: Answer = Answer::Refuse(libc::EAFNOSUPPORT);

/// The numbers of calls, by the names of the libc crate.
macro_rules! calls {
    ($($name:ident)*) => {
        &[$(libc::$name),*]
    };
}

/// The rules of a filter, by number.
pub(super) fn rules(filter: Filter) -> BTreeMap<u32, Rule> {
    let mut rules = BTreeMap::new();
    let mut add = |numbers: &[c_long], answer: Answer| {
        for number in numbers {
            rules.insert(key(*number), Rule::always(answer));
        }
    };
    match filter {
        Filter::Strict | Filter::Standard => {
            add(ALLOWED, Answer::Allow);
            add(&ALLOWED_NEWER, Answer::Allow);
            add(LEGACY, Answer::Allow);
        }
        Filter::Compat => {
            add(REFUSED, EPERM);
            add(REFUSED_LEGACY, EPERM);
        }
    }
    rules.extend(without_set_id().into_iter().map(|(number, rule)| (key(number), rule)));
    rules.extend(conditional(filter).into_iter().map(|(number, rule)| (key(number), rule)));
    rules.insert(NOBODY, Rule::always(Answer::Refuse(NOBODYS_ANSWER)));
    rules
}

/// The rules of the filter for a process of our own that makes no other: the daemon, once it has started.
pub(super) fn own_rules() -> BTreeMap<u32, Rule> {
    let mut rules = rules(Filter::Standard);
    for number in NOT_OURS.iter().chain(NOT_OURS_LEGACY) {
        rules.insert(key(*number), Rule::always(EPERM));
    }
    let allow = || Rule::always(Answer::Allow);
    let thread = Test::Any { argument: 0, mask: word(libc::CLONE_THREAD) };
    let apart = Test::Any { argument: 0, mask: NEW_NAMESPACES };
    // Memory is written or executed, never both: what an attacker wrote cannot be run.
    let (writable, executable) = (word(libc::PROT_WRITE), word(libc::PROT_EXEC));
    let both = Test::Bits { argument: 2, mask: writable | executable, value: writable | executable };
    let becomes_executable = Test::Any { argument: 2, mask: executable };
    rules.extend(
        [
            // Threads, and no process.
            (libc::SYS_clone, Rule::always(EPERM).when(&[apart], EPERM).when(&[thread], Answer::Allow)),
            (libc::SYS_mmap, allow().when(&[both], EPERM)),
            (libc::SYS_mprotect, allow().when(&[becomes_executable], EPERM)),
            (libc::SYS_pkey_mprotect, allow().when(&[becomes_executable], EPERM)),
        ]
        .map(|(number, rule)| (key(number), rule)),
    );
    rules
}

/// What is answered where there is no rule, from each number on.
pub(super) fn otherwise(filter: Filter) -> BTreeMap<u32, Answer> {
    let (known, unknown) = match filter {
        // A program asks for a newer call first and falls back when the kernel "has" none.
        Filter::Strict | Filter::Standard => (EPERM, ENOSYS),
        Filter::Compat => (Answer::Allow, Answer::Allow),
    };
    let mut answers = BTreeMap::from([(0, known), (NEWER, unknown)]);
    // The x32 entry of x86-64 runs the same calls by other numbers, behind every rule.
    if cfg!(target_arch = "x86_64") {
        answers.insert(X32, Answer::Kill);
    }
    answers
}

/// The first number after `mseal` (Linux 6.10), the newest call in these tables.
const NEWER: u32 = 463;
/// `__X32_SYSCALL_BIT`.
const X32: u32 = 0x4000_0000;

fn key(number: c_long) -> u32 {
    u32::try_from(number).expect("system call numbers are small")
}

/// Every flag that makes a namespace (`CLONE_NEW*`), but `CLONE_NEWTIME`, which is a part of the exit signal in
/// `clone`.
const NEW_NAMESPACES: u32 = 0x7e02_0000;
const NEW_TIME: u32 = 0x80;
/// `TIOCSTI` and `TIOCLINUX` type into the terminal as if the person had.
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541c;
const TCP_FASTOPEN_CONNECT: u32 = 30;
const SOCK_TYPE_MASK: u32 = 0xf;

fn conditional(filter: Filter) -> Vec<(c_long, Rule)> {
    let allow = || Rule::always(Answer::Allow);
    let fast_open = Test::Any { argument: 3, mask: word(libc::MSG_FASTOPEN) };
    let fast_open_message = |argument| Test::Any { argument, mask: word(libc::MSG_FASTOPEN) };
    vec![
        (libc::SYS_clone, allow().when(&[Test::Any { argument: 0, mask: NEW_NAMESPACES }], EPERM)),
        // Its flags lie in memory, where no filter sees them. C libraries fall back to clone.
        (libc::SYS_clone3, Rule::always(ENOSYS)),
        (libc::SYS_unshare, allow().when(&[Test::Any { argument: 0, mask: NEW_NAMESPACES | NEW_TIME }], EPERM)),
        (libc::SYS_socket, sockets(filter)),
        (libc::SYS_socketpair, Rule::always(NO_FAMILY).when(&[is(0, libc::AF_UNIX)], Answer::Allow)),
        (
            libc::SYS_setsockopt,
            allow().when(&[is(1, libc::IPPROTO_TCP), Test::Is { argument: 2, value: TCP_FASTOPEN_CONNECT }], EPERM),
        ),
        (libc::SYS_sendto, allow().when(&[fast_open], EPERM)),
        (libc::SYS_sendmsg, allow().when(&[fast_open_message(2)], EPERM)),
        (libc::SYS_sendmmsg, allow().when(&[fast_open_message(3)], EPERM)),
        (
            libc::SYS_ioctl,
            allow()
                .when(&[Test::Is { argument: 1, value: TIOCSTI }], EPERM)
                .when(&[Test::Is { argument: 1, value: TIOCLINUX }], EPERM),
        ),
        // A process's own limits alone: the init has the same user id, and one that may write no more keeps no log.
        (libc::SYS_prlimit64, Rule::always(EPERM).when(&[Test::Is { argument: 0, value: 0 }], Answer::Allow)),
        // Linux as it is, and the question which personality there is.
        (
            libc::SYS_personality,
            Rule::always(EPERM)
                .when(&[Test::Is { argument: 0, value: 0 }], Answer::Allow)
                .when(&[Test::Is { argument: 0, value: u32::MAX }], Answer::Allow),
        ),
    ]
}

/// No file with a set-user-id or set-group-id bit: in a workspace it would lie on the host, and give whoever executes
/// it there the rights of its owner. A mount's `nosuid` stops that inside only.
fn without_set_id() -> Vec<(c_long, Rule)> {
    let at = |argument| {
        let set_id = Test::Any { argument, mask: libc::S_ISUID | libc::S_ISGID };
        Rule::always(Answer::Allow).when(&[set_id], EPERM)
    };
    let mut rules = vec![
        (libc::SYS_fchmod, at(1)),
        (libc::SYS_fchmodat, at(2)),
        (libc::SYS_fchmodat2, at(2)),
        (libc::SYS_mknodat, at(2)),
        (libc::SYS_openat, creating(2, 3)),
        // Its mode lies in memory. Programs fall back to openat.
        (libc::SYS_openat2, Rule::always(ENOSYS)),
    ];
    #[cfg(target_arch = "x86_64")]
    rules.extend([
        (libc::SYS_chmod, at(1)),
        (libc::SYS_creat, at(1)),
        (libc::SYS_mknod, at(1)),
        (libc::SYS_open, creating(1, 2)),
    ]);
    rules
}

/// Only an open that creates has a mode; in another that argument is whatever the register held.
fn creating(flags: u8, mode: u8) -> Rule {
    let set_id = Test::Any { argument: mode, mask: libc::S_ISUID | libc::S_ISGID };
    Rule::always(Answer::Allow)
        .when(&[Test::Any { argument: flags, mask: word(libc::O_CREAT) }, set_id], EPERM)
        // O_TMPFILE contains the bit of O_DIRECTORY, which alone creates nothing.
        .when(
            &[Test::Bits { argument: flags, mask: word(libc::O_TMPFILE), value: word(libc::O_TMPFILE) }, set_id],
            EPERM,
        )
}

/// TCP, UDP and Unix sockets. Raw, packet, vsock and every other family is another way out or a larger kernel;
/// multipath TCP is not seen by Landlock's rules for ports.
fn sockets(filter: Filter) -> Rule {
    let kind = |kind: i32| Test::Bits { argument: 1, mask: SOCK_TYPE_MASK, value: word(kind) };
    let mut rule = Rule::always(NO_FAMILY).when(&[is(0, libc::AF_UNIX)], Answer::Allow);
    for family in [libc::AF_INET, libc::AF_INET6] {
        for (socket, protocol) in [
            (libc::SOCK_STREAM, 0),
            (libc::SOCK_STREAM, libc::IPPROTO_TCP),
            (libc::SOCK_DGRAM, 0),
            (libc::SOCK_DGRAM, libc::IPPROTO_UDP),
        ] {
            rule = rule.when(&[is(0, family), kind(socket), is(2, protocol)], Answer::Allow);
        }
        rule = rule.when(&[is(0, family)], EPERM);
    }
    match filter {
        Filter::Strict => rule,
        // Without CAP_NET_ADMIN it can only be read from.
        Filter::Standard | Filter::Compat => {
            rule.when(&[is(0, libc::AF_NETLINK), is(2, libc::NETLINK_ROUTE)], Answer::Allow)
        }
    }
}

fn is(argument: u8, value: i32) -> Test {
    Test::Is { argument, value: word(value) }
}

const fn word(value: i32) -> u32 {
    value.cast_unsigned()
}

/// Reading and writing, memory, processes of one's own, time, signals: what language runtimes, shells and build
/// tools use. Calls that need a capability are not here: they would fail anyway, a little later.
pub(super) const ALLOWED: &[c_long] = calls! {
    SYS_accept SYS_accept4 SYS_bind SYS_brk SYS_capget SYS_capset SYS_chdir SYS_clock_getres SYS_clock_gettime
    SYS_clock_nanosleep SYS_close SYS_close_range SYS_connect SYS_copy_file_range SYS_dup SYS_dup3
    SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2 SYS_execve SYS_execveat
    SYS_exit SYS_exit_group SYS_faccessat SYS_faccessat2 SYS_fadvise64 SYS_fallocate SYS_fchdir SYS_fchmod
    SYS_fchmodat SYS_fchmodat2 SYS_fchown SYS_fchownat SYS_fcntl SYS_fdatasync SYS_fgetxattr SYS_flistxattr
    SYS_flock SYS_fremovexattr SYS_fsetxattr SYS_fstat SYS_fstatfs SYS_fsync SYS_ftruncate SYS_futex
    SYS_futex_waitv SYS_get_mempolicy SYS_get_robust_list SYS_getcpu SYS_getcwd SYS_getdents64 SYS_getegid
    SYS_geteuid SYS_getgid SYS_getgroups SYS_getitimer SYS_getpeername SYS_getpgid SYS_getpid SYS_getppid
    SYS_getpriority SYS_getrandom SYS_getresgid SYS_getresuid SYS_getrusage SYS_getsid SYS_getsockname
    SYS_getsockopt SYS_gettid SYS_gettimeofday SYS_getuid SYS_getxattr SYS_inotify_add_watch SYS_inotify_init1
    SYS_inotify_rm_watch SYS_ioprio_get SYS_ioprio_set SYS_kill SYS_landlock_add_rule
    SYS_landlock_create_ruleset SYS_landlock_restrict_self SYS_lgetxattr SYS_linkat SYS_listen SYS_listxattr
    SYS_llistxattr SYS_lremovexattr SYS_lseek SYS_lsetxattr SYS_madvise SYS_mbind SYS_membarrier
    SYS_memfd_create SYS_mincore SYS_mkdirat SYS_mknodat SYS_mlock SYS_mlock2 SYS_mlockall SYS_mmap SYS_mprotect
    SYS_mq_getsetattr SYS_mq_notify SYS_mq_open SYS_mq_timedreceive SYS_mq_timedsend SYS_mq_unlink SYS_mremap
    SYS_mseal SYS_msgctl SYS_msgget SYS_msgrcv SYS_msgsnd SYS_msync SYS_munlock SYS_munlockall SYS_munmap
    SYS_nanosleep SYS_newfstatat SYS_openat SYS_openat2 SYS_pidfd_open SYS_pidfd_send_signal SYS_pipe2
    SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect SYS_ppoll SYS_prctl SYS_pread64 SYS_preadv SYS_preadv2
    SYS_prlimit64 SYS_pselect6 SYS_pwrite64 SYS_pwritev SYS_pwritev2 SYS_read SYS_readahead SYS_readlinkat
    SYS_readv SYS_recvfrom SYS_recvmmsg SYS_recvmsg SYS_remap_file_pages SYS_removexattr SYS_renameat2
    SYS_restart_syscall SYS_rseq SYS_rt_sigaction SYS_rt_sigpending SYS_rt_sigprocmask SYS_rt_sigqueueinfo
    SYS_rt_sigreturn SYS_rt_sigsuspend SYS_rt_sigtimedwait SYS_rt_tgsigqueueinfo SYS_sched_get_priority_max
    SYS_sched_get_priority_min SYS_sched_getaffinity SYS_sched_getattr SYS_sched_getparam SYS_sched_getscheduler
    SYS_sched_rr_get_interval SYS_sched_setaffinity SYS_sched_setattr SYS_sched_setparam SYS_sched_setscheduler
    SYS_sched_yield SYS_seccomp SYS_semctl SYS_semget SYS_semop SYS_semtimedop SYS_sendfile SYS_set_mempolicy
    SYS_set_robust_list SYS_set_tid_address SYS_setfsgid SYS_setfsuid SYS_setgid SYS_setgroups SYS_setitimer
    SYS_setpgid SYS_setpriority SYS_setregid SYS_setresgid SYS_setresuid SYS_setreuid SYS_setsid SYS_setuid
    SYS_setxattr SYS_shmat SYS_shmctl SYS_shmdt SYS_shmget SYS_shutdown SYS_sigaltstack SYS_signalfd4 SYS_splice
    SYS_statfs SYS_statx SYS_symlinkat SYS_sync SYS_sync_file_range SYS_syncfs SYS_sysinfo SYS_tee SYS_tgkill
    SYS_timer_create SYS_timer_delete SYS_timer_getoverrun SYS_timer_gettime SYS_timer_settime
    SYS_timerfd_create SYS_timerfd_gettime SYS_timerfd_settime SYS_times SYS_tkill SYS_truncate SYS_umask
    SYS_uname SYS_unlinkat SYS_utimensat SYS_vmsplice SYS_wait4 SYS_waitid SYS_write SYS_writev

};

/// `cachestat` (Linux 6.5), `futex_wake`, `futex_wait` and `futex_requeue` (6.7): the same numbers on every
/// architecture, and the libc crate does not name them everywhere.
pub(super) const ALLOWED_NEWER: [c_long; 4] = [451, 454, 455, 456];

/// The older forms of the same calls, which only x86-64 has.
#[cfg(target_arch = "x86_64")]
pub(super) const LEGACY: &[c_long] = calls! {
    SYS_access SYS_alarm SYS_arch_prctl SYS_chmod SYS_chown SYS_creat SYS_dup2 SYS_epoll_create SYS_epoll_wait
    SYS_eventfd SYS_fork SYS_futimesat SYS_getdents SYS_getpgrp SYS_getrlimit SYS_inotify_init SYS_lchown
    SYS_link SYS_lstat SYS_mkdir SYS_mknod SYS_open SYS_pause SYS_pipe SYS_poll SYS_readlink SYS_rename
    SYS_renameat SYS_rmdir SYS_select SYS_setrlimit SYS_signalfd SYS_stat SYS_symlink SYS_time SYS_unlink
    SYS_utime SYS_utimes SYS_vfork
};
#[cfg(not(target_arch = "x86_64"))]
pub(super) const LEGACY: &[c_long] = &[];

/// What the commands of a sandbox may do and a gateway has no business with.
pub(super) const NOT_OURS: &[c_long] = calls! {
    // Other programs and other users. It says what it needs before the filter comes.
    SYS_execve SYS_execveat SYS_unshare SYS_personality SYS_setuid SYS_setgid SYS_setreuid SYS_setregid SYS_setresuid
    SYS_setresgid SYS_setfsuid SYS_setfsgid SYS_setgroups SYS_capset SYS_setsid SYS_setpgid
    // Device nodes and attributes of files.
    SYS_mknodat SYS_setxattr SYS_lsetxattr SYS_fsetxattr SYS_removexattr SYS_lremovexattr SYS_fremovexattr
    // Memory and queues that are shared by number; pages given away or bent behind a mapping.
    SYS_shmget SYS_shmat SYS_shmctl SYS_shmdt SYS_semget SYS_semop SYS_semctl SYS_semtimedop SYS_msgget SYS_msgsnd
    SYS_msgrcv SYS_msgctl SYS_mq_open SYS_mq_unlink SYS_mq_timedsend SYS_mq_timedreceive SYS_mq_notify
    SYS_mq_getsetattr SYS_vmsplice SYS_remap_file_pages
};

/// The same, where only x86-64 has them.
#[cfg(target_arch = "x86_64")]
pub(super) const NOT_OURS_LEGACY: &[c_long] = calls! { SYS_fork SYS_vfork SYS_mknod };
#[cfg(not(target_arch = "x86_64"))]
pub(super) const NOT_OURS_LEGACY: &[c_long] = &[];

/// What even the most lenient profile refuses.
pub(super) const REFUSED: &[c_long] = calls! {
    // Sockets, files and more behind the filter's back.
    SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register
    // The kernel as an interpreter, a debugger, a key store.
    SYS_bpf SYS_perf_event_open SYS_userfaultfd SYS_keyctl SYS_add_key SYS_request_key SYS_lookup_dcookie
    // Other processes' memory and descriptors.
    SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_process_madvise SYS_process_mrelease SYS_kcmp
    SYS_pidfd_getfd SYS_move_pages SYS_migrate_pages
    // Namespaces and mounts; handles that open files without their paths.
    SYS_setns SYS_mount SYS_umount2 SYS_pivot_root SYS_chroot SYS_open_tree SYS_move_mount SYS_fsopen
    SYS_fsconfig SYS_fsmount SYS_fspick SYS_mount_setattr SYS_open_by_handle_at SYS_name_to_handle_at
    SYS_fanotify_init
    // The machine: modules, other kernels, power, swap, clocks, names, accounting, its log.
    SYS_init_module SYS_finit_module SYS_delete_module SYS_kexec_load SYS_reboot SYS_swapon SYS_swapoff
    SYS_settimeofday SYS_clock_settime SYS_clock_adjtime SYS_adjtimex SYS_sethostname SYS_setdomainname SYS_acct
    SYS_quotactl SYS_quotactl_fd SYS_syslog SYS_vhangup SYS_nfsservctl
};

/// The same, where only x86-64 has them.
#[cfg(target_arch = "x86_64")]
pub(super) const REFUSED_LEGACY: &[c_long] = calls! {
    SYS_kexec_file_load SYS_iopl SYS_ioperm SYS_modify_ldt SYS_uselib SYS_ustat SYS_sysfs SYS__sysctl
    SYS_epoll_ctl_old SYS_epoll_wait_old
};
#[cfg(not(target_arch = "x86_64"))]
pub(super) const REFUSED_LEGACY: &[c_long] = &[libc::SYS_kexec_file_load];
