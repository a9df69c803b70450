# Runs one case's script, `$1`, with the argument `$2`, in a fresh /tmp. `$enter` is empty or what starts a program in the mode
# on trial: scripts put it before each program that is on trial; `$policy` is what confines it there, if anything does. They tell the outcome in lines `@pass NAME`, `@fail NAME` and `@skip NAME`.

busybox mount -t tmpfs -o mode=1777 tmpfs /tmp && cd /tmp || exit 94
ulimit -c 0
# For policies that name what may be written to.
mkdir log

# What stands before a program that ends by itself: one that hangs costs its check, not the whole case.
limited="timeout --signal KILL 60 $enter"

# What `dune run` says of a call that the policy denies. It goes to the program's standard error.
denial='^dune: the program.s call \(.*\) is denied by the policy .*'

# denials: tells each denial in what is read. Those of a policy are what it is for, and named; with allow-all there are none to be.
denials() {
    [ -z "$policy" ] || sed -n "s/$denial/@denied \1/p"
}

# without_denials: what is read, but for what a policy's denials say. What is compared is what the program says.
without_denials() {
    if [ -n "$policy" ]; then sed "/$denial/d"; else cat; fi
}

# check NAME COMMAND...: passes if the command succeeds; what it printed is shown if not.
check() {
    check_name=$1
    shift
    "$@" >/tmp/.check 2>&1
    check_status=$?
    denials </tmp/.check
    if [ $check_status = 0 ]; then
        echo "@pass $check_name"
    else
        echo "$check_name: status $check_status of: $*"
        cat /tmp/.check
        printf '\n@fail %s\n' "$check_name"
    fi
}

# same NAME EXPECTED COMMAND...: passes if the command succeeds and prints exactly this.
same() {
    check_name=$1 expected=$2
    shift 2
    said=$("$@" 2>&1)
    check_status=$?
    printf '%s\n' "$said" | denials
    got=$(printf '%s\n' "$said" | without_denials)
    if [ "$got" = "$expected" ] && [ $check_status = 0 ]; then
        echo "@pass $check_name"
    else
        printf '%s: status %s of: %s\n--- expected\n%s\n--- got\n%s\n' \
            "$check_name" $check_status "$*" "$expected" "$got"
        printf '\n@fail %s\n' "$check_name"
    fi
}

# until_true SECONDS COMMAND...: tries the command until it succeeds, for that long.
until_true() {
    tries=$(($1 * 5))
    shift
    while ! "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 0.2
    done
}

# A launcher that forgets its mode would make every case pass. Some stay, as parents of what they launch: but for these there is nobody else here.
if [ -n "$enter" ]; then
    $enter busybox sleep 20 &
    if ! until_true 10 sh -c "ls -l /proc/[0-9]*/fd | grep kvm-vcpu"; then
        echo '@fail programs run in the mode on trial'
        exit 95
    fi
    kill $!
fi

# A policy that confines nothing would make every case pass, too.
if [ -n "$policy" ]; then
    echo outside >/root/outside
    same 'what is outside can not be read' refused sh -c "$enter busybox sh -c 'read -r word </root/outside && echo \$word || echo refused' 2>/dev/null"
fi

. "/dune/programs/$1"
# The checks tell what failed; a script that ends early says so by its status.
exit 0
