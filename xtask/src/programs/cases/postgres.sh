# PostgreSQL as a user of its own: processes that share memory, parallel queries, a crash and what is left of the data.

PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
nobody='setpriv --reuid=65534 --regid=65534 --clear-groups'
# The device is root's here; who may not open it runs in host mode.
chmod 666 /dev/kvm
trap 'chmod 600 /dev/kvm' EXIT
limited="timeout --signal KILL 180 $nobody $enter"

sql() { $limited psql -h /tmp -d postgres -U postgres -q -At -c "$1"; }
start() { $limited pg_ctl -D data -l server.log -w -t 120 start >started 2>&1 || { cat started server.log; return 1; }; }
mode() {
    if ls -l "/proc/$(head -n 1 data/postmaster.pid)/fd" | grep -q kvm-vcpu; then echo "${enter:-not natively}"; fi
}

check initdb $limited initdb -D data -U postgres -A trust --no-locale
cat >>data/postgresql.conf <<'END'
unix_socket_directories = '/tmp'
shared_buffers = 64MB
max_connections = 40
min_parallel_table_scan_size = 0
parallel_setup_cost = 0
END
check 'the server starts' start
same 'in this mode' "$enter" mode
same 'a table' '' sql 'create table t as select i, md5(i::text) m from generate_series(1, 100000) i'
same 'an index' '' sql 'create unique index on t(m)'
same 'sorted' '100000|00003e3b9e5336685200ae85d21b4f5e|fffffe98d0963d27015c198262d97221' \
    sql 'select count(*), min(m), max(m) from t'
same 'by several processes' '3200000' sql 'select sum(length(m)) from t'
same 'an error' 'ERROR:  division by zero' sh -c "$limited psql -h /tmp -d postgres -U postgres -At -c 'select 1/0' || :"
check 'pgbench: fill' $limited pgbench -h /tmp -U postgres -q -i -s 1 postgres
check 'pgbench: four clients' $limited pgbench -h /tmp -U postgres -n -c 4 -j 2 -t 100 postgres
same 'every transaction counts' '400|t' sql 'select count(*),
    sum(delta) = (select sum(abalance) from pgbench_accounts) from pgbench_history'
same 'vacuum' '' sql 'vacuum full t'
kill -KILL "$(head -n 1 data/postmaster.pid)"
until_true 30 sh -c '! pgrep -x postgres'
rm -f data/postmaster.pid
check 'a start after a crash' start
same 'nothing is lost' '400|100000' sql 'select (select count(*) from pgbench_history), count(*) from t'
check 'the end' $limited pg_ctl -D data -w -t 120 -m fast stop
tail -n 20 server.log
