#!/usr/bin/env bash
# Makes the disk of a small Debian guest: image.sh SUITE FOLDER
#
# FOLDER gets disk.ext4, vmlinuz and initrd. They hold Debian's packages and one unit that runs `/share/run` of
# the second disk at boot; nothing of this project is in them, so they are kept until the list below changes.
set -euo pipefail

suite=$1 folder=$2
here=$(cd "$(dirname "$0")" && pwd)
packages=$(sed 's/#.*//' "$here/packages" | tr -s ' \n' ',' | sed 's/^,//; s/,$//')

# An ordinary user builds in a user namespace; what is root's there is root's on the disk.
mode=root helper=()
if [ "$(id -u)" != 0 ]; then mode=unshare helper=(mmdebstrap --unshare-helper); fi

work=$(mktemp -d "$folder.XXXXXX")
trap '"${helper[@]}" rm -rf "$work/root"; rm -rf "$work"' EXIT
chmod 755 "$work"

mmdebstrap --mode="$mode" --variant=minbase --quiet --include="$packages" \
    --aptopt='Acquire::Retries "3"' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook='copy-in '"$here/guest-unit/vm-test.service"' /etc/systemd/system' \
    --customize-hook='chroot "$1" systemctl enable vm-test.service' \
    --customize-hook='chroot "$1" systemctl mask serial-getty@ttyS0.service getty@tty1.service apt-daily.timer apt-daily-upgrade.timer' \
    --customize-hook='chroot "$1" passwd -d root' \
    --customize-hook='rm "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap"' \
    --customize-hook='chroot "$1" useradd --create-home --shell /bin/bash someone' \
    --customize-hook='echo guest > "$1/etc/hostname"; echo "127.0.0.1 localhost guest" > "$1/etc/hosts"' \
    "$suite" "$work/root.tar"

# Twice: the disk is made from a folder, and the folder has to keep owners and devices.
"${helper[@]}" sh -euc '
    mkdir "$1/root"
    tar -C "$1/root" --xattrs --xattrs-include="*" -xf "$1/root.tar"
    cp "$1"/root/boot/vmlinuz-* "$1/vmlinuz"
    cp "$1"/root/boot/initrd.img-* "$1/initrd"
    truncate -s 3G "$1/disk.ext4"
    mke2fs -q -F -t ext4 -L root -d "$1/root" "$1/disk.ext4"
    rm -rf "$1/root" "$1/root.tar"
' sh "$work"
rm -rf "$folder"
mkdir -p "$folder"
mv "$work/disk.ext4" "$work/vmlinuz" "$work/initrd" "$folder/"
