//! The programs, run by a small interpreter, call by call.

use super::*;
use crate::sandbox::plan::Filter;

const ALL: [Filter; 3] = [Filter::Strict, Filter::Standard, Filter::Compat];

/// What the kernel would do with `program` for one call.
fn run(program: &[Instruction], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_le_bytes());
    data.extend(architecture.to_le_bytes());
    data.extend(0_u64.to_le_bytes());
    arguments.iter().for_each(|argument| data.extend(argument.to_le_bytes()));
    let (mut at, mut accumulator) = (0, 0_u32);
    loop {
        let step = program[at];
        at += 1;
        let taken = match step.code {
            0x20 => {
                let from = step.operand as usize;
                accumulator = u32::from_le_bytes(data[from..from + 4].try_into().expect("inside"));
                continue;
            }
            0x54 => {
                accumulator &= step.operand;
                continue;
            }
            0x06 => return step.operand,
            assemble::JUMP => {
                at += step.operand as usize;
                continue;
            }
            assemble::JUMP_EQUAL => accumulator == step.operand,
            assemble::JUMP_AT_LEAST => accumulator >= step.operand,
            assemble::JUMP_ANY_BIT => accumulator & step.operand != 0,
            other => panic!("no such operation: {other:#x}"),
        };
        at += usize::from(if taken { step.jump_true } else { step.jump_false });
    }
}

fn answer(filter: Filter, number: libc::c_long, arguments: [u64; 6]) -> Result<(), i32> {
    answer_of(&compile(filter), number, arguments)
}

fn answer_of(program: &[Instruction], number: libc::c_long, arguments: [u64; 6]) -> Result<(), i32> {
    let number = u32::try_from(number).expect("small");
    match run(program, assemble::ARCHITECTURE, number, arguments) {
        libc::SECCOMP_RET_ALLOW => Ok(()),
        libc::SECCOMP_RET_KILL_PROCESS => Err(-1),
        value if value & 0xffff_0000 == libc::SECCOMP_RET_ERRNO => Err((value & 0xffff).cast_signed()),
        other => panic!("{other:#x}"),
    }
}

fn call(filter: Filter, number: libc::c_long) -> Result<(), i32> {
    answer(filter, number, [0; 6])
}

fn socket(filter: Filter, family: i32, kind: i32, protocol: i32) -> Result<(), i32> {
    let word = |value: i32| u64::from(value.cast_unsigned());
    answer(filter, libc::SYS_socket, [word(family), word(kind), word(protocol), 0, 0, 0])
}

#[test]
fn everyday_calls_pass_every_filter() {
    for filter in ALL {
        for number in
            [libc::SYS_read, libc::SYS_openat, libc::SYS_execve, libc::SYS_futex, libc::SYS_clone, libc::SYS_exit_group]
        {
            assert_eq!(call(filter, number), Ok(()), "{filter:?} {number}");
        }
    }
}

#[test]
fn every_listed_call_gets_the_answer_of_its_list() {
    let conditional = [libc::SYS_clone, libc::SYS_socket];
    for filter in [Filter::Strict, Filter::Standard] {
        for number in table::ALLOWED.iter().chain(table::LEGACY).filter(|number| **number != libc::SYS_openat2) {
            assert_eq!(call(filter, *number), Ok(()), "{filter:?} {number}");
            assert!(!conditional.contains(number));
        }
    }
    for filter in ALL {
        for number in table::REFUSED.iter().chain(table::REFUSED_LEGACY) {
            assert_eq!(call(filter, *number), Err(libc::EPERM), "{filter:?} {number}");
        }
    }
}

#[test]
fn a_call_in_neither_list_divides_the_filters() {
    assert_eq!(call(Filter::Strict, libc::SYS_fanotify_mark), Err(libc::EPERM));
    assert_eq!(call(Filter::Compat, libc::SYS_fanotify_mark), Ok(()));
    assert_eq!(call(Filter::Strict, 5000), Err(libc::ENOSYS), "a call newer than the table");
}

#[test]
fn no_filter_makes_a_namespace() {
    for filter in ALL {
        for flag in [
            libc::CLONE_NEWUSER,
            libc::CLONE_NEWNS,
            libc::CLONE_NEWNET,
            libc::CLONE_NEWPID,
            libc::CLONE_NEWIPC,
            libc::CLONE_NEWUTS,
            libc::CLONE_NEWCGROUP,
        ] {
            let flags = u64::from((flag | libc::SIGCHLD).cast_unsigned());
            assert_eq!(answer(filter, libc::SYS_clone, [flags, 0, 0, 0, 0, 0]), Err(libc::EPERM));
            assert_eq!(answer(filter, libc::SYS_unshare, [flags, 0, 0, 0, 0, 0]), Err(libc::EPERM));
        }
        assert_eq!(answer(filter, libc::SYS_unshare, [0x80, 0, 0, 0, 0, 0]), Err(libc::EPERM), "a time namespace");
        assert_eq!(call(filter, libc::SYS_clone3), Err(libc::ENOSYS));
        let thread = (libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_THREAD | libc::CLONE_SIGHAND).cast_unsigned();
        assert_eq!(answer(filter, libc::SYS_clone, [u64::from(thread), 0, 0, 0, 0, 0]), Ok(()));
    }
}

#[test]
fn sockets_are_tcp_udp_and_unix_only() {
    for filter in ALL {
        for family in [libc::AF_INET, libc::AF_INET6] {
            let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
            assert_eq!(socket(filter, family, libc::SOCK_STREAM | flags, 0), Ok(()));
            assert_eq!(socket(filter, family, libc::SOCK_STREAM, libc::IPPROTO_TCP), Ok(()));
            assert_eq!(socket(filter, family, libc::SOCK_DGRAM | flags, libc::IPPROTO_UDP), Ok(()));
            assert_eq!(socket(filter, family, libc::SOCK_STREAM, libc::IPPROTO_MPTCP), Err(libc::EPERM));
            assert_eq!(socket(filter, family, libc::SOCK_DGRAM, libc::IPPROTO_ICMP), Err(libc::EPERM));
            assert_eq!(socket(filter, family, libc::SOCK_RAW, libc::IPPROTO_ICMP), Err(libc::EPERM));
            assert_eq!(socket(filter, family, libc::SOCK_SEQPACKET, 0), Err(libc::EPERM));
        }
        assert_eq!(socket(filter, libc::AF_UNIX, libc::SOCK_SEQPACKET, 0), Ok(()));
        for family in [libc::AF_VSOCK, libc::AF_PACKET, libc::AF_ALG, libc::AF_XDP, libc::AF_BLUETOOTH, 99] {
            assert_eq!(socket(filter, family, libc::SOCK_DGRAM, 0), Err(libc::EAFNOSUPPORT), "{family}");
        }
        assert_eq!(socket(filter, libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER), Err(libc::EAFNOSUPPORT));
    }
    assert_eq!(socket(Filter::Strict, libc::AF_NETLINK, libc::SOCK_RAW, 0), Err(libc::EAFNOSUPPORT));
    assert_eq!(socket(Filter::Standard, libc::AF_NETLINK, libc::SOCK_RAW, 0), Ok(()));
}

#[test]
fn data_in_the_first_segment_is_refused() {
    let flag = u64::from(libc::MSG_FASTOPEN.cast_unsigned());
    for filter in ALL {
        assert_eq!(answer(filter, libc::SYS_sendto, [3, 0, 0, flag, 0, 0]), Err(libc::EPERM));
        assert_eq!(answer(filter, libc::SYS_sendmsg, [3, 0, flag | 0x4000, 0, 0, 0]), Err(libc::EPERM));
        assert_eq!(answer(filter, libc::SYS_sendmmsg, [3, 0, 1, flag, 0, 0]), Err(libc::EPERM));
        assert_eq!(answer(filter, libc::SYS_setsockopt, [3, 6, 30, 0, 0, 0]), Err(libc::EPERM));
        assert_eq!(answer(filter, libc::SYS_setsockopt, [3, 6, 1, 0, 0, 0]), Ok(()));
        assert_eq!(answer(filter, libc::SYS_sendto, [3, 0, 0, 0x4000, 0, 0]), Ok(()));
    }
}

/// The kernel looks at the lower half of an ioctl's number only; a filter that compares all of it is passed
/// by setting a bit above.
#[test]
fn typing_into_the_terminal_is_refused_whatever_the_upper_half_says() {
    for filter in ALL {
        for number in [0x5412_u64, 0x541c, 0xdead_beef_0000_5412] {
            assert_eq!(answer(filter, libc::SYS_ioctl, [0, number, 0, 0, 0, 0]), Err(libc::EPERM), "{number:#x}");
        }
        assert_eq!(answer(filter, libc::SYS_ioctl, [0, 0x5401, 0, 0, 0, 0]), Ok(()));
    }
}

#[test]
fn foreign_entries_end_the_process() {
    for filter in ALL {
        let program = compile(filter);
        // i386 and, on x86-64, the x32 numbers.
        let foreign = run(&program, 0x4000_0003, 3, [0; 6]);
        assert_eq!(foreign, libc::SECCOMP_RET_KILL_PROCESS);
        if cfg!(target_arch = "x86_64") {
            let x32 = run(&program, assemble::ARCHITECTURE, 0x4000_0000, [0; 6]);
            assert_eq!(x32, libc::SECCOMP_RET_KILL_PROCESS);
        }
    }
}

#[test]
fn programs_are_short_and_every_path_ends() {
    for filter in ALL {
        let program = compile(filter);
        assert!(program.len() < crate::sys::filter::MAX_INSTRUCTIONS, "{}", program.len());
        for number in (0..600).chain([u32::MAX, table::NOBODY, 0x3fff_ffff]) {
            for argument in [0, 1, u64::MAX] {
                run(&program, assemble::ARCHITECTURE, number, [argument; 6]);
            }
        }
    }
}

#[test]
fn no_file_gets_a_set_user_id_bit() {
    for filter in ALL {
        for mode in [0o4755, 0o2755, 0o6000] {
            assert_eq!(answer(filter, libc::SYS_fchmod, [3, mode, 0, 0, 0, 0]), Err(libc::EPERM));
            assert_eq!(answer(filter, libc::SYS_fchmodat, [3, 0, mode, 0, 0, 0]), Err(libc::EPERM));
            assert_eq!(answer(filter, libc::SYS_mknodat, [3, 0, mode, 0, 0, 0]), Err(libc::EPERM));
            for flags in [libc::O_CREAT | libc::O_WRONLY, libc::O_TMPFILE | libc::O_RDWR] {
                let flags = u64::from(flags.cast_unsigned());
                assert_eq!(answer(filter, libc::SYS_openat, [3, 0, flags, mode, 0, 0]), Err(libc::EPERM));
                assert_eq!(answer(filter, libc::SYS_openat, [3, 0, flags, 0o644, 0, 0]), Ok(()));
            }
            // Without O_CREAT the mode is whatever the register held.
            let folder = u64::from(libc::O_DIRECTORY.cast_unsigned());
            assert_eq!(answer(filter, libc::SYS_openat, [3, 0, folder, mode, 0, 0]), Ok(()));
        }
        assert_eq!(answer(filter, libc::SYS_fchmod, [3, 0o1777, 0, 0, 0, 0]), Ok(()));
        assert_eq!(call(filter, libc::SYS_openat2), Err(libc::ENOSYS));
    }
}

/// What the daemon's own filter answers.
fn own(number: libc::c_long, arguments: [u64; 6]) -> Result<(), i32> {
    answer_of(&compile_own(), number, arguments)
}

#[test]
fn the_daemon_makes_threads_and_no_process_and_executes_nothing() {
    let flag = |flags: i32| [u64::from(flags.cast_unsigned()), 0, 0, 0, 0, 0];
    let thread = libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_FS | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
    assert_eq!(own(libc::SYS_clone, flag(thread)), Ok(()));
    assert_eq!(
        own(libc::SYS_clone, flag(thread | libc::CLONE_NEWNET)),
        Err(libc::EPERM),
        "nor a thread in a namespace"
    );
    for flags in [libc::SIGCHLD, libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD, libc::CLONE_NEWUSER] {
        assert_eq!(own(libc::SYS_clone, flag(flags)), Err(libc::EPERM), "{flags:#x}");
    }
    assert_eq!(own(libc::SYS_clone3, [0; 6]), Err(libc::ENOSYS), "so that a C library falls back to clone");
    for number in [libc::SYS_execve, libc::SYS_execveat] {
        assert_eq!(own(number, [0; 6]), Err(libc::EPERM));
    }
    let newnet = flag(libc::CLONE_NEWNET);
    assert_eq!(own(libc::SYS_unshare, newnet), Err(libc::EPERM));
    assert_eq!(own(libc::SYS_unshare, [0; 6]), Err(libc::EPERM), "not even without a flag");
}

#[test]
fn the_daemon_s_memory_is_written_or_executed() {
    let protection = |rights: i32| [0, 4096, u64::from(rights.cast_unsigned()), 0, 0, 0];
    let (read, write, execute) = (libc::PROT_READ, libc::PROT_WRITE, libc::PROT_EXEC);
    for rights in [read, read | write, read | execute] {
        assert_eq!(own(libc::SYS_mmap, protection(rights)), Ok(()), "a library is mapped so");
    }
    assert_eq!(own(libc::SYS_mmap, protection(read | write | execute)), Err(libc::EPERM));
    assert_eq!(own(libc::SYS_mmap, protection(write | execute)), Err(libc::EPERM));
    for number in [libc::SYS_mprotect, libc::SYS_pkey_mprotect] {
        assert_eq!(own(number, protection(read | write)), Ok(()));
        assert_eq!(own(number, protection(read | execute)), Err(libc::EPERM));
        assert_eq!(own(number, protection(execute)), Err(libc::EPERM));
    }
}

#[test]
fn the_daemon_keeps_what_a_gateway_needs_and_loses_the_rest() {
    for number in
        table::REFUSED.iter().chain(table::REFUSED_LEGACY).chain(table::NOT_OURS).chain(table::NOT_OURS_LEGACY)
    {
        assert_eq!(own(*number, [0; 6]), Err(libc::EPERM), "{number}");
    }
    for number in [
        libc::SYS_kill,
        libc::SYS_pidfd_open,
        libc::SYS_pidfd_send_signal,
        libc::SYS_splice,
        libc::SYS_memfd_create,
        libc::SYS_fdatasync,
        libc::SYS_inotify_add_watch,
        libc::SYS_sendmsg,
        libc::SYS_statfs,
    ] {
        assert_eq!(own(number, [0; 6]), Ok(()), "{number}");
    }
    let socket = |family: i32, kind: i32, protocol: i32| {
        let word = |value: i32| u64::from(value.cast_unsigned());
        own(libc::SYS_socket, [word(family), word(kind), word(protocol), 0, 0, 0])
    };
    assert_eq!(socket(libc::AF_INET, libc::SOCK_STREAM, 0), Ok(()));
    assert_eq!(socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE), Ok(()), "its own addresses");
    assert_eq!(socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_SOCK_DIAG), Err(libc::EAFNOSUPPORT));
    assert_eq!(socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_TCP), Err(libc::EPERM));
    assert_eq!(socket(libc::AF_PACKET, libc::SOCK_RAW, 0), Err(libc::EAFNOSUPPORT));
    assert_eq!(own(libc::SYS_prlimit64, [1, 0, 0, 0, 0, 0]), Err(libc::EPERM), "limits of others");
    assert!(compile_own().len() < crate::sys::filter::MAX_INSTRUCTIONS);
    let foreign = run(&compile_own(), 0x4000_0003, 3, [0; 6]);
    assert_eq!(foreign, libc::SECCOMP_RET_KILL_PROCESS);
}
