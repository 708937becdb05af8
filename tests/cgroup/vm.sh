#!/bin/sh
# The tests of control groups on a kernel with the v2 tree alone, in a small virtual machine: first at the
# top of the hierarchy with nothing handed down, then in a delegated group, then at the top with all
# handed down.
#
# Usage: tests/cgroup/vm.sh KERNEL        a bootable kernel image, such as /boot/vmlinuz-6.1.0-…-cloud-amd64
#
# Needs qemu-system-x86_64, cpio and a static busybox; no root, no network, no disk. Works without KVM, in
# about 20 seconds. Exit code: 0 when everything held, 1 otherwise, 77 when something it needs is not there.
set -eu

kernel=${1:-}
[ -r "$kernel" ] || { echo "SKIP: name a readable kernel image"; exit 77; }
for tool in qemu-system-x86_64 cpio busybox setpriv setsid dash; do
    command -v "$tool" >/dev/null || { echo "SKIP: there is no $tool"; exit 77; }
done

cd "$(dirname "$0")/../.."
binary=$(cargo test --test cgroup --no-run 2>&1 | sed -n 's/.*Executable.*(\(.*\))/\1/p')
[ -x "$binary" ] || { echo "the tests do not build"; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
root=$work/root
mkdir -p "$root/bin" "$root/proc" "$root/sys" "$root/dev" "$root/tmp"
cp "$(command -v busybox)" "$root/bin/busybox"
for name in mount mkdir cat echo poweroff; do ln -s busybox "$root/bin/$name"; done
cp "$binary" "$root/bin/cgroup-test"
strip -g "$root/bin/cgroup-test"
# The real ones: busybox has others of the same names in its shell.
cp "$(command -v dash)" "$root/bin/sh"
for name in setpriv setsid sleep dd; do cp "$(command -v $name)" "$root/bin/$name"; done
for file in cgroup-test sh setpriv setsid sleep dd; do
    ldd "$root/bin/$file" | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "$root$(dirname "$library")"
        cp -Ln "$library" "$root$library"
    done
done

cat > "$root/init" <<'INIT'
#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
cd /sys/fs/cgroup
try() {
    echo; echo "--- $1"
    sh -c "echo 0 > $2/cgroup.procs; exec cgroup-test --nocapture --test-threads=2 $3"
    echo "RESULT $?"
}
try "at the top, nothing handed down" . "the_preset daemonised"
for one in cpu cpuset io memory pids; do echo +$one > cgroup.subtree_control; done
mkdir service
try "in a group of its own" service ""
try "at the top, everything handed down" . "resources"
poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) > "$work/initrd"

# `max,-cx16`: some kernels do not start on the emulated instruction.
timeout 300 qemu-system-x86_64 -accel tcg,thread=multi -cpu max,-cx16 -smp 2 -m 1536 -nographic -no-reboot \
    -kernel "$kernel" -initrd "$work/initrd" -append "console=ttyS0 quiet panic=-1 cgroup_no_v1=all psi=1" \
    </dev/null > "$work/log" 2>&1 || true
sed -n '/^---/,$p' "$work/log"
# The machine itself always ends well, so what counts is what it said.
[ "$(grep -c '^RESULT 0' "$work/log")" = 3 ]
