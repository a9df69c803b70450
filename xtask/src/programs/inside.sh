# Runs cases in the machine: each argument is NAME,MODE,LIMIT,SCRIPT,ARGUMENT,POLICY. The marks `@case` and `@end` tell xtask
# what happens; see transcript.rs. /dev/vda holds Debian's packages, /dune/programs the cases' scripts.

root=/run/programs
mkdir -p $root
mount -t ext4 /dev/vda $root || exit 90
for folder in dev sys dune; do
    mount -o rbind /$folder $root/$folder || exit 91
done
mount -t proc proc $root/proc || exit 92
mount -t tmpfs tmpfs $root/run || exit 93

seconds() { cut -d ' ' -f 1 /proc/uptime; }

for job; do
    IFS=, read -r name mode limit script argument policy <<END
$job
END
    printf '\n@case %s %s\n' "$name" "$mode"
    case $mode in
        native) enter='' ;;
        dune) enter='dune enter --' ;;
        sandbox) enter="dune run ${policy:---policy allow-all} --" ;;
    esac
    # What has to be refused is refused by a policy only.
    [ "$mode" = sandbox ] || policy=''
    start=$(seconds)
    # A process ID namespace of its own: nothing a case starts outlives it.
    chroot $root /usr/bin/env -i HOME=/root USER=root LANG=C.UTF-8 TERM=dumb enter="$enter" policy="$policy" \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/dune/bin \
        timeout --signal KILL "$limit" unshare --pid --fork --kill-child --mount --mount-proc \
        sh /dune/programs/one.sh "$script" "$argument" >/tmp/output 2>&1 </dev/null
    status=$?
    end=$(seconds)
    tail -c 1000000 /tmp/output
    printf '\n@end %s %s %s %s\n' "$name" "$status" "$start" "$end"
done
