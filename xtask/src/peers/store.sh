# What saving costs those who write meanwhile: the example `store`, by a fork in host mode and by a snapshot in Dune mode, under
# redis-benchmark. For `cargo xtask peers store`, in the machine.

cd /tmp || exit
redis-cli --version >/dev/null || exit
keys=${KEYS:-20000}

# The time of the longest command while 1,000 SETs come, with or without a save under way, in microseconds.
load() {
    redis-cli config resetstat >/dev/null
    redis-benchmark -q -c 4 -n 1000 -r $keys -d 1000 -t set >/dev/null || exit
}
info() { redis-cli info | tr -d '\r' | sed -n "s/^$1://p"; }

for mode in fork snapshot; do
    store --mode $mode --megabytes 64 --port 6379 >/tmp/$mode.log &
    server=$!
    until redis-cli ping >/dev/null 2>&1; do kill -0 $server || exit; sleep 0.2; done
    redis-benchmark -q -c 4 -P 32 -n $((keys * 3)) -r $keys -d 1000 -t set >/dev/null || exit
    load
    quiet=$(info longest_command_us)
    save=''
    pauses=''
    for round in 1 2 3; do
        redis-cli bgsave >/dev/null
        load
        save="$save $(info longest_command_us)"
        pauses="$pauses $(info last_bgsave_pause_us)"
        until [ "$(info rdb_bgsave_in_progress)" = 0 ]; do kill -0 $server || exit; sleep 0.2; done
        [ "$(info rdb_last_bgsave_status)" = ok ] || exit
    done
    echo "$mode: $(info keys) keys of 1000 bytes; microseconds: BGSAVE itself$pauses; longest command meanwhile$save, without $quiet"
    redis-cli save >/dev/null
    redis-cli shutdown
    wait $server || exit
done
