#!/dune/busybox sh
# The first process of an emulated machine: makes it habitable, runs /dune/command, tells the console how it ended.
# xtask reads the console: what lies between the marks `begin` and `kernel` is the command's output.

. /dune/environment

fail() {
    printf '\n\001dune:fail %s\n' "$*"
    sleep 5
    poweroff -f
}

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs tmpfs /run
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr
hostname "$DUNE_MACHINE"
ip link set lo up

for module in /dune/modules/*.ko; do
    insmod "$module" || fail "the kernel refuses its module ${module##*/}"
done
[ -c /dev/kvm ] || fail "this kernel offers no /dev/kvm"

# Bytes go over the line as they are written, and only the kernel's last words may come between them.
stty -opost -echo </dev/console
dmesg -n 1
dmesg -c >/dune/boot.log

# Why: see hold-kvm.rs of dune-tests, and svm.rs.
if [ "$DUNE_MACHINE" = svm ]; then
    hold-kvm || fail "KVM makes no VM to be held while programs run"
fi

export DUNE_KERNEL="$(uname -r)"
cd /root
printf '\001dune:begin %s\n' "$DUNE_KERNEL"
/bin/sh /dune/command </dev/null
status=$?
printf '\001dune:kernel\n'
dmesg | grep -A 20 -E 'BUG:|WARNING:|Oops:|soft lockup|rcu_.*stall' | tail -n 60
printf '\001dune:exit %d\n' "$status"

# xtask ends the emulator when it has read that; without xtask, let the line drain first.
sleep 5
poweroff -f
