# stress-ng with --verify: each kind of load by itself, which has to do what it was asked for and to find nothing wrong.

# load NAME OPTIONS...: passes if stress-ng says that all went well, and that it did something.
load() {
    load_name=$1
    shift
    if $limited stress-ng --verify --metrics-brief --temp-path /tmp --seed 1 "$@" >stress.log 2>&1 &&
        grep -q 'successful run completed' stress.log && ! grep -q -E 'fail:|error:' stress.log &&
        busybox awk -v name="$load_name" '$0 ~ "^stress-ng: (info|metrc): .* " name " +[0-9]+ " { done += $5 } END { exit !(done > 0) }' stress.log
    then
        echo "@pass $load_name"
    else
        cat stress.log
        printf '\n@fail %s\n' "$load_name"
    fi
}

load cpu --cpu 2 --cpu-ops 60
load vm --vm 2 --vm-bytes 16M --vm-ops 200
load signal --signal 2 --signal-ops 2000
load sigfd --sigfd 1 --sigfd-ops 500
load fork --fork 2 --fork-ops 60
load vfork --vfork 1 --vfork-ops 40
load pipe --pipe 2 --pipe-ops 4000
load mmap --mmap 1 --mmap-bytes 4M --mmap-ops 4
load futex --futex 1 --futex-ops 200
load pthread --pthread 1 --pthread-ops 100
load poll --poll 1 --poll-ops 200
load switch --switch 1 --switch-ops 500
