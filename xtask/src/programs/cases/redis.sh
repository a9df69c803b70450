# A server under load that saves by fork, then a server that loads what was saved.

cli() { redis-cli -h 127.0.0.1 "$@"; }
info() { cli info persistence | tr -d '\r' | grep "^$1:" | cut -d : -f 2; }
serve() {
    $enter redis-server --bind 127.0.0.1 --port 6379 --save '' --dir /tmp --logfile server.log &
    server=$!
    until_true 60 sh -c 'redis-cli -h 127.0.0.1 ping | grep -q PONG'
    check "$1" sh -c 'redis-cli -h 127.0.0.1 ping | grep -q PONG'
}
saved() { [ "$(info rdb_bgsave_in_progress)" = 0 ]; }

serve 'the server answers'
check 'benchmark: set' $enter redis-benchmark -h 127.0.0.1 -q -c 10 -n 5000 -P 8 -r 5000 -d 100 -t set
size=$(cli dbsize)
$enter redis-benchmark -h 127.0.0.1 -q -c 10 -n 2000 -t get,incr,lpush,sadd,zadd >load.log 2>&1 &
load=$!
same 'BGSAVE starts under load' 'Background saving started' cli bgsave
check 'BGSAVE ends' until_true 60 saved
same 'BGSAVE succeeded' ok info rdb_last_bgsave_status
wait $load
same 'benchmark: the load' 0 echo $?
same 'five kinds of requests' 5 grep -c 'requests per second' load.log
cli set last value >/dev/null
same 'BGSAVE again' 'Background saving started' cli bgsave
check 'it ends' until_true 60 saved
same 'it succeeded' ok info rdb_last_bgsave_status
before=$(cli dbsize)
same 'keys were set' 1 sh -c "[ ${size:-0} -gt 2000 ] && echo 1"
cli shutdown nosave
wait $server
same 'the server ends by SHUTDOWN' 0 echo $?
check 'the file is sound' redis-check-rdb dump.rdb
serve 'a server loads the file'
same 'all keys are back' "$before" cli dbsize
same 'the last value is back' value cli get last
kill $server
wait $server
same 'the server ends by SIGTERM' 0 echo $?
tail -n 20 server.log
