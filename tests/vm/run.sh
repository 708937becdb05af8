#!/usr/bin/env bash
# The package on a real systemd: boots a small Debian guest, runs `guest/` in it, and shows one line per property.
#
#   tests/vm/run.sh PACKAGE.deb [SUITE…]       trixie (systemd 257, Linux 6.12) and bookworm (252, 6.1) by default
#
#   ARW_VM_CACHE     where disks are kept                        [target/vm]
#   ARW_VM_ONLY      words: only properties with one of them in the name, or in that of their file (`p40`)
#   ARW_VM_ACCEL     accelerator of QEMU; software emulation is slow and works everywhere   [tcg]
#   ARW_VM_TIMEOUT   seconds for one guest                       [1800]
#
# Exit status: 0 when every property held in every guest, 1 when one did not, 75 when a guest ran out of time before one
# did not, 77 when a tool is not there, no disk can be made or none boots.
# The guest has no network card: everything happens on its loopback.
set -euo pipefail
cd "$(dirname "$0")/../.."

[ $# -ge 1 ] || { sed -n '2,13p' tests/vm/run.sh; exit 2; }
deb=$1
shift
[ -r "$deb" ] || { echo "there is no $deb; build it with \`just package\`" >&2; exit 1; }
if [ $# -gt 0 ]; then suites=("$@"); else suites=(trixie bookworm); fi
cache=${ARW_VM_CACHE:-target/vm}

declare -A tools=([qemu-system-x86_64]=qemu-system-x86 [mmdebstrap]=mmdebstrap [mke2fs]=e2fsprogs)
missing=()
for tool in "${!tools[@]}"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "$tool" >/dev/null || missing+=("${tools[$tool]}")
done
if [ "${#missing[@]}" -gt 0 ]; then
    if [ "$(id -u)" != 0 ]; then echo "install ${missing[*]} first" >&2; exit 77; fi
    { apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; } ||
        { echo "${missing[*]} cannot be installed" >&2; exit 77; }
fi
export PATH=$PATH:/usr/sbin:/sbin

# A disk is named after all that it is made from.
key=$(cat tests/vm/packages tests/vm/image.sh tests/vm/guest-unit/* | sha256sum | cut -c1-12)
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)

boot() {
    local suite=$1 disk=$cache/$1-$key work qemu console result last="" shown=0 deadline late=no
    # Another run may be making the same disk.
    exec 9> "$cache/lock"
    flock 9
    if [ ! -e "$disk/disk.ext4" ]; then
        echo "# making a disk of $suite (minutes, once)"
        rm -rf "$cache/$suite"-*
        tests/vm/image.sh "$suite" "$disk" > "$cache/$suite.log" 2>&1 || { cat "$cache/$suite.log"; return 77; }
    fi
    exec 9>&-
    work=$(mktemp -d "$cache/run.XXXXXX")
    console=$work/console result=$work/result
    mkdir "$work/share"
    cp "$deb" "$work/share/arw.deb"
    cp -r tests/vm/guest/. "$work/share/"
    printf '%s\n' "${ARW_VM_ONLY:-}" > "$work/share/only"
    truncate -s 256M "$work/share.ext4"
    mke2fs -q -F -t ext4 -L share -d "$work/share" "$work/share.ext4"

    # `max,-cx16`: some kernels do not start on the emulated instruction. One processor: a second costs more than it
    # brings under emulation. `no_timer_check`: on a busy machine the emulated timer is late, and the kernel gives up on it.
    : > "$result"
    nice -n 10 qemu-system-x86_64 -accel "${ARW_VM_ACCEL:-tcg}" -cpu max,-cx16 -smp 1 -m 1536 -nodefaults -nic none \
        -display none -no-reboot -monitor none -serial "file:$console" -serial "file:$result" \
        -drive "file=$disk/disk.ext4,format=raw,if=virtio,snapshot=on" \
        -drive "file=$work/share.ext4,format=raw,if=virtio,readonly=on" \
        -kernel "$disk/vmlinuz" -initrd "$disk/initrd" \
        -append "root=LABEL=root rw console=ttyS0 no_timer_check quiet panic=-1 systemd.show_status=0" </dev/null &
    qemu=$!
    # Kills only the machine that was started here.
    trap 'kill '"$qemu"' 2>/dev/null || true; rm -rf "'"$work"'"' EXIT
    deadline=$((SECONDS + ${ARW_VM_TIMEOUT:-1800}))
    echo "# $suite"
    while kill -0 "$qemu" 2>/dev/null; do
        if [ "$SECONDS" -ge "$deadline" ]; then late=yes; kill "$qemu"; fi
        show
        sleep 1
    done
    wait "$qemu" || true
    show
    trap - EXIT
    # The machine itself always ends well, so what counts is what it said last.
    last=$(tr -d '\r' < "$result" | grep '^result: ' | tail -1 || true)
    if [[ $last != "result: held"* ]]; then
        if [ "$late" = yes ]; then
            echo "not ok - $suite: the guest took too long"
            if ! grep -q '^not ok' "$result"; then rm -rf "$work"; return 75; fi
        elif [ -z "$last" ]; then
            echo "not ok - $suite: it ended without a result; the end of its console:"
            tail -40 "$console" | tr -d '\r'
            # Not even the first property: it does not boot here.
            if ! grep -q '^\(not \)\?ok' "$result"; then rm -rf "$work"; return 77; fi
        fi
        rm -rf "$work"
        return 1
    fi
    rm -rf "$work"
}

# Shows the whole lines that came since.
show() {
    local size text
    size=$(wc -l < "$result")
    if [ "$size" -gt "$shown" ]; then
        text=$(sed -n "$((shown + 1)),${size}p" "$result" | tr -d '\r')
        printf '%s\n' "$text"
        shown=$size
    fi
}

failed=0
for suite in "${suites[@]}"; do
    boot "$suite" || { status=$?; [ "$failed" = 1 ] || failed=$status; }
done
exit "$failed"
