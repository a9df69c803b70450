# What starting a confined program costs, a file that is denied, and memory: with dune run, and with what people use instead.
# For `cargo xtask peers`, in the machine. Nothing is printed before all is measured: the console's interrupts would count.

# bwrap changes the root of its namespace, which Linux lets nobody do to an initramfs itself.
if [ "$1" != inside ]; then
    mkdir /n && mount --rbind / /n && cd /n && mount --move . / && exec chroot . sh /compare.sh inside
    exit 1
fi

mkdir -p /srv/work && cd /srv/work && echo secret >/srv/secret || exit
few='--unshare-all --ro-bind /usr /usr --ro-bind /dune /dune --symlink usr/lib /lib --symlink usr/lib64 /lib64 --proc /proc --dev /dev'
{
    peers start /usr/bin/true &&
    peers start dune run --policy cli -- /usr/bin/true &&
    peers start dune run --policy compute -- /dune/busybox true &&
    peers start dune enter --ring 3 -- /usr/bin/true &&
    peers start bwrap --unshare-all --ro-bind / / -- /usr/bin/true &&
    peers start peers landlock /usr/bin/true &&
    peers start peers broker /usr/bin/true &&
    echo 'natively, not there:' && peers denied /srv/none &&
    echo 'dune run --policy cli:' && dune run --policy cli -- peers denied /srv/secret &&
    echo "bwrap $few:" && bwrap $few -- peers denied /srv/secret &&
    echo 'peers landlock:' && peers landlock peers denied /srv/secret &&
    echo 'peers broker:' && peers broker peers denied /srv/secret
    status=$?
    # Two of them: what both have does not count as private.
    /usr/bin/sleep 1000 & native=$!
    dune run --policy cli -- /usr/bin/sleep 1000 & confined=$!
    dune run --policy cli -- /usr/bin/sleep 1000 & other=$!
    sleep 2
    for process in $native $confined; do
        echo "memory of $(tr '\0' ' ' </proc/$process/cmdline):"
        grep -E '^(Rss|Pss|Private_Clean|Private_Dirty|Anonymous):' /proc/$process/smaps_rollup
    done
    kill $native $confined $other
} >/tmp/said 2>&1
cat /tmp/said
exit $status
